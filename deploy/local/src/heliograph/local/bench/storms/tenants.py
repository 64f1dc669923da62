"""One tenant's storm and another tenant's latency: a flood over a quota, a session with thousands of subscribers,
payloads that nobody should send.
"""

import time

from heliograph.local.bench.storms.actors import Actor
from heliograph.local.bench.storms.judging import Stretch, loss_of
from heliograph.local.bench.storms.party import Accounts, Plan
from heliograph.local.bench.storms.poison import Poisoner
from heliograph.local.bench.storms.scene import LATE_S, ONE_TOKEN, Scene, sessions, stretch, urls
from heliograph.stores.keys import Topics

QUIET_S = 6.0
STORM_S = 8.0
QUOTA_PER_S = 500.0
TIMES_QUOTA = 10.0
FLOODERS = 50
"""Each below the bucket of its connection: what holds them is the tenant's."""
BURST_S = 2.0
"""Of a quota: what may be taken at once, besides."""
WIDE_SUBSCRIBERS = 10_000
WIDE_PER_S = 2.0
"""20,000 deliveries a second: an eighth of what one edge does when it does nothing else."""
POISON_PER_S = 100.0
"""Of all kinds together."""
SECTION = "Storms: a tenant's storm, and another tenant's latency"


def flood(scene: Scene) -> None:
    """A tenant publishes at ten times its quota."""
    scene.behind()
    edge = scene.edge("edge-flooded")
    quota = {"messages_per_s": QUOTA_PER_S, "bytes_per_s": QUOTA_PER_S * 4096}
    tenant = scene.tenant("loud", {"quotas": {"event": quota}})
    names = sessions("loud", FLOODERS)
    plan = Plan(
        "loud", urls(edge), tenant.token("loud"), names, tuple((one,) for one in names), counted=False, timed=False
    )
    per_s = QUOTA_PER_S * TIMES_QUOTA
    with scene.party(plan) as loud, scene.bystander(edge) as probe:
        storms_s = []

        def storm(_number: int) -> Stretch:
            begin_ns = time.monotonic_ns()
            loud.ask("feed", per_s, scene.options.seconds(STORM_S))
            loud.ask("fed")
            end_ns = time.monotonic_ns()
            loud.ask("wait_answered", LATE_S)
            storms_s.append((end_ns - begin_ns) / 1e9)
            return Stretch(begin_ns, end_ns)

        pairs = scene.interleave("flood", probe, scene.options.seconds(QUIET_S), storm, [edge.pid])
        accounts: Accounts = loud.ask("accounts")
        published = sum(one.published for one in accounts.fed)
        loud.ask("wait_read", {one.session: 0 for one in accounts.fed}, LATE_S)
        took_s = sum(storms_s) + BURST_S * len(storms_s)
        loss = loss_of(accounts, loud.ask("accounts"))
        more = {"accepted_per_s": published / took_s, "lost": float(loss.lost)}
        work = f"{per_s:,.0f}/s offered where {QUOTA_PER_S:,.0f}/s are allowed"
        scene.judge_pairs(SECTION, work, pairs, more)
        scene.judge_loss("flood, who floods", loss)
        scene.judge_loss("flood, bystander", scene.bystander_loss(probe))
        gate = "flood: taken, × what the quota and its burst allow"
        scene.report.gate(gate, published / took_s / QUOTA_PER_S, 1.1, "leases of one second overlap the storm's ends")
    scene.rig.stop("edge-flooded")
    scene.judge_alive("flood")


def wide(scene: Scene) -> None:
    """A session with thousands of subscribers on one edge."""
    scene.behind()
    subscribers = scene.options.count(WIDE_SUBSCRIBERS)
    edge = scene.edge("edge-wide")
    tenant = scene.tenant("wide", ONE_TOKEN)
    (name,) = sessions("wide", 1)
    readers = Plan("wide", urls(edge), tenant.token("wide"), reads=(name,) * subscribers, timed=False)
    source = Plan("source", urls(edge), tenant.token("source"), feeds=((name,),))
    with scene.party(readers) as crowd, scene.party(source) as feeder, scene.bystander(edge) as probe:
        scene.say(f"wide: {subscribers:,} subscribers are there")

        def storm(_number: int) -> Stretch:
            begin_ns = time.monotonic_ns()
            feeder.ask("feed", WIDE_PER_S, scene.options.seconds(STORM_S))
            feeder.ask("fed")
            return Stretch(begin_ns, time.monotonic_ns())

        pairs = scene.interleave("wide", probe, scene.options.seconds(QUIET_S), storm, [edge.pid])
        feeder.ask("settle", LATE_S)
        fed: Accounts = feeder.ask("accounts")
        crowd.ask("wait_read", {name: fed.fed[0].published}, LATE_S)
        loss = loss_of(fed, crowd.ask("accounts"))
        work = f"{subscribers:,} subscribers of one session, {WIDE_PER_S * subscribers:,.0f} deliveries/s"
        scene.judge_pairs(SECTION, work, pairs, {"lost": float(loss.lost)})
        scene.judge_loss("wide, the wide session", loss)
        scene.judge_loss("wide, bystander", scene.bystander_loss(probe))
    scene.rig.stop("edge-wide")
    scene.judge_alive("wide")


def poison(scene: Scene) -> None:
    """A tenant sends what nobody should: to the edge, and past it to its own topics."""
    scene.behind()
    edge = scene.edge("edge-poisoned")
    tenant = scene.tenant("poison")
    topics = Topics("heliograph")
    written = (topics.log("poison"), topics.deferred("poison"))
    arguments = (*urls(edge), tenant.token("poison"), sessions("poison", 8), scene.rig.kafka.bootstrap_servers, written)
    with Actor("poison", scene.rig.cores, Poisoner, *arguments) as poisoner, scene.bystander(edge) as probe:

        def storm(_number: int) -> Stretch:
            poisoner.ask("begin", POISON_PER_S)
            found = stretch(scene.options.seconds(STORM_S))
            poisoner.ask("end")
            return found

        pairs = scene.interleave("poison", probe, scene.options.seconds(QUIET_S), storm, [edge.pid])
        sent: dict[str, int] = poisoner.ask("sent")
        scene.say("poison: " + ", ".join(f"{count} {kind}" for kind, count in sorted(sent.items())))
        scene.judge_pairs(SECTION, f"{POISON_PER_S:.0f}/s of {len(sent)} kinds of poison", pairs, {})
        scene.judge_loss("poison, bystander", scene.bystander_loss(probe))
        missing = [kind for kind, count in sent.items() if not count]
        if missing:
            scene.report.faults.append(f"poison: nothing was sent of {', '.join(missing)}")
    scene.rig.stop("edge-poisoned")
    scene.judge_alive("poison")
