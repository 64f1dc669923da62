"""Both live stores answer what the reference (`heliograph.core.producers`) answers, to any sequence of publishes."""

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.stores.live.helpers import DUPLICATE, OK, ask_all, live_on, message, new_session

from heliograph.core.messages import MessageClass
from heliograph.core.positions import Position
from heliograph.core.producers import Accept, Claim, Duplicate, OutOfOrder, ProducerLedger
from heliograph.stores.ports import Append, Appended, AppendStatus, LiveStore


@dataclass(frozen=True)
class Publish:
    """`step`: seq relative to the producer's next; 0 the next, -1 its last again."""

    producer: str
    incarnation: str
    class_: MessageClass
    step: int
    body: bytes
    message_id: str
    times: int


@dataclass(frozen=True)
class Confirm:
    every: int


PUBLISHES = st.builds(
    Publish,
    producer=st.sampled_from(["a", "b", ""]),
    incarnation=st.sampled_from(["inc-00000001", "inc-00000002"]),
    class_=st.sampled_from([MessageClass.EVENT, MessageClass.CONTROL]),
    step=st.sampled_from([0, 0, 0, 0, -1, -1, -2, -63, -64, -65, 1, 2]),
    body=st.sampled_from([b"1", b"1", b"1", b"2"]),
    message_id=st.sampled_from(["", "", "", "x", "y"]),
    times=st.sampled_from([1, 1, 1, 3, 70]),
)
STEPS = st.lists(st.one_of(PUBLISHES, PUBLISHES, PUBLISHES, st.builds(Confirm, every=st.integers(1, 3))), max_size=40)


class Model:
    """One session by the reference."""

    def __init__(self) -> None:
        self.ledger = ProducerLedger(lambda position: position.seq in self.confirmed)
        self.confirmed: set[int] = set()
        self.next: dict[bytes, int] = {}
        self.head = 0

    def expect(self, one: Append, epoch: str) -> Appended:
        claim = Claim(one.content_hash, one.producer, one.producer_seq, one.message_id)
        judgement = self.ledger.judge(claim, 0)
        if isinstance(judgement, OutOfOrder):
            return Appended(AppendStatus.OUT_OF_ORDER, expected=judgement.expected)
        if isinstance(judgement, Accept):
            self.head += 1
            position = Position(epoch, self.head)
        elif isinstance(judgement, Duplicate):
            if not judgement.consumes:
                return Appended(DUPLICATE, *judgement.position, judgement.confirmed, 3)
            position = judgement.position
        else:
            return Appended(AppendStatus(judgement.code))
        self.ledger.record(claim, position, 0)
        if one.producer:
            self.next[one.producer] = one.producer_seq + 1
        if isinstance(judgement, Accept):
            return Appended(OK, *position, partition=3)
        return Appended(DUPLICATE, *position, position.seq in self.confirmed, 3)


async def compare(store: LiveStore, steps: list[Publish | Confirm]) -> None:
    session, model = new_session(), Model()
    first = (await ask_all(store, [message(session)]))[0]
    assert isinstance(first, Appended)
    model.head = 1
    for step in steps:
        if isinstance(step, Confirm):
            seqs = range(1, model.head + 1, step.every)
            await store.confirm(session, first.epoch, [(seq, 513) for seq in seqs])
            model.confirmed.update(seqs)
            continue
        sent, expected = [], []
        for _ in range(step.times):
            seq = 0
            if step.producer:
                field = f"{step.class_}|{step.producer}|{step.incarnation}".encode()
                seq = max(1, model.next.get(field, 1) + step.step)
            one = message(
                session,
                step.body,
                producer=step.producer or "nobody",
                incarnation=step.incarnation,
                seq=seq,
                message_id=step.message_id,
                class_=step.class_,
            )
            sent.append(one)
            expected.append(model.expect(one, first.epoch))
        assert await ask_all(store, sent) == expected
    assert (await store.heads([session]))[0].seq == model.head


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
@example(
    steps=[
        Publish("a", "inc-00000001", MessageClass.EVENT, 0, b"1", "x", 1),
        Publish("a", "inc-00000002", MessageClass.EVENT, 0, b"1", "x", 70),
        Publish("a", "inc-00000002", MessageClass.EVENT, -64, b"1", "", 1),
        Publish("a", "inc-00000002", MessageClass.EVENT, -65, b"1", "", 1),
        Publish("a", "inc-00000002", MessageClass.EVENT, -1, b"2", "", 1),
    ]
)
def test_a_store_answers_what_the_ledger_answers(
    kind: str, request: pytest.FixtureRequest, steps: list[Publish | Confirm]
) -> None:
    async def run() -> None:
        live = live_on(kind, request)
        try:
            await compare(await live.store(), steps)
        finally:
            await live.close()

    asyncio.run(run())
