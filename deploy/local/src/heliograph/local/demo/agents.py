"""The agents: a planner, two tools and a person, each about ten lines on the SDK.

Ada asks how long sunlight needs to get somewhere. Her question is a command to the planner. The planner has the search
tool look the distance up and the calculator divide it by the speed of light, and streams the answer to Ada, word by
word. Every message says what it belongs to (`correlation_id`: the question) and what caused it (`causation_id`).

The planner and the tools serve their agent type: they know no session beforehand. Who begins a conversation names its
session (Ada does), the tools' sessions are called as the planner's is. A worker that is lost in the middle of a message
leaves it to the next one: what they publish has ids made from the question's, so a second time is no second answer.

None of this code knows about lost connections or order: that is what Heliograph is for.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from heliograph.client import Client, Gap, Message, WorkSession

LIGHT_MINUTE_KM = 17_987_547.48
"""What light travels in a minute."""

DISTANCES_KM = {
    "Mercury": 57_909_000, "Venus": 108_210_000, "Earth": 149_598_000, "Mars": 227_956_000, "Ceres": 413_690_000,
    "Jupiter": 778_479_000, "Saturn": 1_432_041_000, "Uranus": 2_867_043_000, "Neptune": 4_514_953_000,
    "Pluto": 5_869_656_000, "Voyager 1": 25_400_000_000,
}  # fmt: skip
"""From the Sun; the mean, for what goes round it."""


def question_id(inbox: str, number: int) -> str:
    """The message id of somebody's question: the same one again is the same question."""
    return f"{inbox}/question-{number}"


def answer_about(place: str, minutes: float | None = None) -> str:
    """The sentence; without `minutes`, the one that is right."""
    minutes = minutes if minutes is not None else DISTANCES_KM[place] / LIGHT_MINUTE_KM
    return f"Sunlight needs {minutes:.1f} minutes to {place}."


async def person(client: Client, inbox: str, planner: str, places: Iterable[str]) -> None:
    """Asks, and waits for the answer. Impatient: every question is sent twice, and is one all the same."""
    async with client.subscribe(inbox) as messages:
        await messages.ready()
        for number, place in enumerate(places, start=1):
            question = {"light to": place}
            for _ in range(2):
                asked = await client.publish(
                    planner, question, cls="control", id=question_id(inbox, number), reply_to=inbox
                )
            async for message in messages:
                if isinstance(message, Message) and message.causation_id == asked.message_id:
                    break


async def planner(client: Client) -> None:
    """Splits a question into tasks for the tools, and streams the answer."""

    async def plan(session: WorkSession, message: Message | Gap) -> None:
        if isinstance(message, Message) and message.class_ == "control":
            search, calculator = (str(replace(session.key, agent_type=tool)) for tool in ("search", "calculator"))
            task: dict[str, Any] = {"reply_to": session.key, "correlation_id": message.id, "causation_id": message.id}
            place = message.data["light to"]
            found = await client.request(search, {"distance of": place}, **task)
            ratio = await client.request(calculator, {"divide": [found.data["km"], LIGHT_MINUTE_KM]}, **task)
            words = answer_about(place, ratio.data["result"]).split()
            async with asyncio.TaskGroup() as streaming:
                for number, word in enumerate(words):
                    inbox, id_ = message.reply_to or session.key, f"{message.id}/{number}"
                    say = client.publish(inbox, {"word": word}, id=id_, correlation_id=message.id)
                    streaming.create_task(say)
            await client.reply(message, {"answer": " ".join(words)}, cls="event", id=f"{message.id}/answer")

    await client.serve_each("planner", plan)


async def search(client: Client) -> None:
    """Looks a distance up, and shows how far it is with that."""

    async def look_up(session: WorkSession, task: Message | Gap) -> None:
        if isinstance(task, Message) and task.reply_to:
            for percent in (25, 50, 75):
                progress = {"searching": task.data["distance of"], "percent": percent}
                await client.publish(session.key, progress, cls="telemetry", correlation_id=task.correlation_id)
                await asyncio.sleep(0.01)
            await client.reply(task, {"km": DISTANCES_KM[task.data["distance of"]]}, id=f"{task.id}/answer")

    await client.serve_each("search", look_up)


async def calculator(client: Client) -> None:
    """Divides."""

    async def divide(session: WorkSession, task: Message | Gap) -> None:
        if isinstance(task, Message) and task.reply_to:
            dividend, divisor = task.data["divide"]
            await client.publish(session.key, {"busy": True}, cls="telemetry", correlation_id=task.correlation_id)
            await client.reply(task, {"result": dividend / divisor}, id=f"{task.id}/answer")

    await client.serve_each("calculator", divide)
