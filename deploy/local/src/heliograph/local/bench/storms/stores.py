"""Kafka or Redis stops answering for a while: what goes on, and how soon the rest is made up for."""

import time

from heliograph.local.bench import gates
from heliograph.local.bench.report import HELIOGRAPH
from heliograph.local.bench.storms.judging import Latencies, Stretch, loss_of
from heliograph.local.bench.storms.party import Accounts, Plan
from heliograph.local.bench.storms.scene import LATE_S, Scene, sessions, shared, stopped, stretch, urls

KAFKA_SESSIONS = 100
KAFKA_PER_S = 1_000.0
"""30 s of it are 300 messages a session, of the 1,000 that may be unconfirmed."""
KAFKA_AWAY_S = 30.0
QUIET_S = 10.0
GOES_ON_S = 3.0
"""Published on after the return: it is made up for beside what comes."""
REDIS_SESSIONS = 50
REDIS_AWAY_S = 20.0
NOTICED_S = 4.0
"""A shorter outage is waited for: nothing is deferred."""
CONTROL_PER_S = 500.0
"""10,000 messages are deferred."""
EVENTS_PER_S = 200.0
PATIENCE_S = 60.0
"""For what must be done in 10 or 15 s: how late it is, is told."""
SECTION = "Storms: a store that is away"


def kafka_away(scene: Scene) -> None:
    """Live delivery goes on; what was accepted is confirmed soon after."""
    scene.behind()
    edge = scene.edge("edge-kafka")
    tenant = scene.tenant("logged")
    names = sessions("logged", KAFKA_SESSIONS)
    plan = Plan("logged", urls(edge), tenant.token("logged"), reads=names, feeds=tuple((one,) for one in names))
    away_s = scene.options.seconds(KAFKA_AWAY_S)
    settled_s: list[float] = []
    with scene.party(plan, measures=True) as load:
        load.ask("feed", KAFKA_PER_S)
        time.sleep(2.0)

        def storm(_number: int) -> Stretch:
            with stopped(scene.rig.kafka):
                found = stretch(away_s)
                returned_ns = time.monotonic_ns()
            time.sleep(GOES_ON_S)
            load.ask("stop_feeding")
            done, at_ns = load.ask("settle", PATIENCE_S)
            settled_s.append((at_ns - returned_ns) / 1e9 if done else float("inf"))
            scene.say(f"kafka: everything confirmed {settled_s[-1]:.1f} s after its return")
            load.ask("feed", KAFKA_PER_S)
            time.sleep(1.0)
            return found

        pairs = scene.interleave("kafka", load, scene.options.seconds(QUIET_S), storm)
        loss = scene.bystander_loss(load)
        work = f"Kafka stopped for {away_s:g} s under {KAFKA_PER_S:,.0f}/s"
        more = {"settled_s": max(settled_s), "lost": float(loss.lost)}
        scene.judge_pairs(SECTION, work, pairs, more)
        scene.judge_loss("kafka", loss)
        gate = "kafka: everything confirmed after its return, s"
        scene.report.gate(gate, max(settled_s), gates.CONFIRMED_WITHIN_S, "the worst of the runs")
    scene.rig.stop("edge-kafka")
    scene.judge_alive("kafka")


def redis_away(scene: Scene) -> None:
    """Control is deferred, and delivered in order soon after; events are refused, and lost is none that was durable."""
    scene.behind()
    edge = scene.edge("edge-redis")
    tenant = scene.tenant("deferred")
    names, others = sessions("deferred", REDIS_SESSIONS), sessions("deferred", REDIS_SESSIONS)
    token = tenant.token("deferred")
    away_s = scene.options.seconds(REDIS_AWAY_S, at_least=NOTICED_S)
    readers = Plan("readers", urls(edge), token, reads=names)
    control_plan = Plan("control", urls(edge), token, feeds=shared(names, 10), class_="control")
    event_plan = Plan("events", urls(edge), token, reads=others, feeds=tuple((one,) for one in others))
    with (
        scene.party(readers) as reader,
        scene.party(control_plan) as control,
        scene.party(event_plan) as events,
    ):
        control.ask("feed", CONTROL_PER_S)
        events.ask("feed", EVENTS_PER_S)
        quiet = stretch(scene.options.seconds(5.0))
        with stopped(scene.rig.redis):
            time.sleep(away_s)
            returned_ns = time.monotonic_ns()
        before: Accounts = control.ask("accounts")
        given = {one.session: one.given for one in before.fed}
        done, at_ns = reader.ask("wait_read", given, PATIENCE_S)
        delivered_s = (at_ns - returned_ns) / 1e9 if done else float("inf")
        scene.say(f"redis: control of the outage delivered {delivered_s:.1f} s after its return")
        time.sleep(GOES_ON_S)
        control.ask("stop_feeding")
        event_loss = scene.bystander_loss(events)
        control.ask("settle", LATE_S)
        fed: Accounts = control.ask("accounts")
        reader.ask("wait_read", {one.session: one.published for one in fed.fed}, LATE_S)
        loss = loss_of(fed, reader.ask("accounts"))
        deferred = sum(one.deferred for one in fed.fed)
        latencies = Latencies(reader.ask("samples"))
        work = f"Redis stopped for {away_s:g} s under {CONTROL_PER_S:,.0f}/s control"
        scene.report.row(SECTION, work, HELIOGRAPH, [{
            "quiet_p99_ms": latencies.p99_ms(quiet), "settled_s": delivered_s, "deferred": float(deferred),
            "lost": float(loss.lost + event_loss.lost),
        }])  # fmt: skip
        scene.judge_loss("redis, control", loss)
        scene.judge_loss("redis, events", event_loss)
        if not deferred:
            scene.report.faults.append("redis: no control message was deferred, so nothing was tried")
        gate = "redis: control of the outage delivered after its return, s"
        scene.report.gate(gate, delivered_s, gates.DEFERRED_WITHIN_S, "in its producers' order")
    scene.rig.stop("edge-redis")
    scene.judge_alive("redis")
