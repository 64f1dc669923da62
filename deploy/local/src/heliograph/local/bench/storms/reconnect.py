"""Thousands of clients lose their edge at once, and one after the other: a kill, and a drain."""

import time

from heliograph.local.bench import gates
from heliograph.local.bench.report import HELIOGRAPH
from heliograph.local.bench.storms.actors import Actor
from heliograph.local.bench.storms.judging import Latencies, Loss, Stretch, loss_of, percentile, steepest
from heliograph.local.bench.storms.party import Accounts, Moves, Plan
from heliograph.local.bench.storms.scene import LATE_S, ONE_TOKEN, Scene, sessions, shared, urls
from heliograph.local.bench.storms.sdk import SdkParty

CLIENTS = 5_000
SDK_CLIENTS = 200
FEED_PER_S = 500.0
"""Over all sessions: each has a message in some ten seconds, so one in three is missing something when it is back."""
FEEDERS = 20
BEFORE_S = 2.0
"""Fed before it begins: four in five sessions have no message yet when they lose their edge. Who waits for a first
message comes back like everybody else: from the live path, and asks nobody for history.
"""
AFTER_S = 3.0
"""Fed on, once all are back."""
BACK_TIMEOUT_S = 90.0
DRAIN_S = 25.0
"""An installation's default: clients are told over four fifths of it less their jitter, 19 s, and go within 20."""
WINDOW_S = 5.0
"""Of time in which the bystander's p99 is looked at: long enough for a thousand messages."""
SECTION = "Storms: clients that come back"


def lost_edge(scene: Scene) -> None:
    """kill -9 of an edge with all its clients, whom the other one takes in."""
    clients, own = scene.options.count(CLIENTS), scene.options.count(SDK_CLIENTS)
    scene.behind()
    # As it would be on another machine: the kernel's work to end thousands of sockets is none of who takes them in.
    dying = scene.edge("edge-dying", elsewhere=True)
    staying = scene.reserve("edge-staying")
    tenant = scene.tenant("crowd", ONE_TOKEN)
    names = sessions("crowd", clients + own)
    addresses = urls(dying, staying)
    with Actor("sdk", scene.rig.cores, SdkParty, addresses, tenant.token("sdk"), names[clients:]) as sdk:
        sdk.ask("open")  # while the other edge is not there: all are on the dying one
        staying.start()
        crowd_plan = Plan("crowd", addresses, tenant.token("crowd"), reads=names[:clients], timed=False)
        feeder_plan = Plan("feeder", urls(staying), tenant.token("feeder"), feeds=shared(names, FEEDERS))
        with (
            scene.party(crowd_plan) as crowd,
            scene.party(feeder_plan) as feeder,
            scene.bystander(staying) as probe,
        ):
            feeder.ask("feed", FEED_PER_S)
            scene.say(f"lost-edge: {clients} lean and {own} SDK clients are up")
            time.sleep(BEFORE_S)
            killed_ns = time.monotonic_ns()
            dying.kill()
            back = crowd.ask("wait_up_again", clients, BACK_TIMEOUT_S, timeout_s=2 * BACK_TIMEOUT_S)
            sdk_back = sdk.ask("wait_up_again", own, BACK_TIMEOUT_S, timeout_s=2 * BACK_TIMEOUT_S)
            storm = Stretch(killed_ns, time.monotonic_ns())
            time.sleep(AFTER_S)
            feeder.ask("stop_feeding")
            loss = counted(feeder, crowd, sdk)
            moves: Moves = crowd.ask("moves")
            resumed = [one.resumed_ns for one in moves.returns] + sdk.ask("resumed_ns")
            took_s = [(at - killed_ns) / 1e9 for at in resumed]
            took_s += [float("inf")] * (clients + own - back - sdk_back)
            latencies = Latencies(probe.ask("samples"))
            worst_ms = latencies.worst_p99_ms(storm, WINDOW_S)
            scene.report.row(SECTION, f"kill -9 under {clients:,} lean and {own} SDK clients", HELIOGRAPH, [{
                "resumed_p50_s": percentile(took_s, 0.5), "resumed_p99_s": percentile(took_s, 0.99),
                "resumed_max_s": max(took_s), "storm_p99_ms": latencies.p99_ms(storm), "worst_p99_ms": worst_ms,
                "lost": float(loss.lost),
            }])  # fmt: skip
            resumed_s = percentile(took_s, 0.99)
            scene.say(f"lost-edge: resumed p99 {resumed_s:.1f} s, bystander's worst p99 {worst_ms:.1f} ms")
            scene.judge_loss("lost-edge", loss)
            scene.judge_loss("lost-edge, bystander", scene.bystander_loss(probe))
            gate = scene.report.gate
            gate("lost-edge: p99 to resumed, s", resumed_s, gates.RESUMED_P99_S, "two times 10 s")
            gate(f"lost-edge: bystander's p99 in any {WINDOW_S:g} s, ms", worst_ms, gates.BYSTANDER_P99_MS, "")
    scene.rig.stop("edge-dying")
    scene.judge_alive("lost-edge")


def drain(scene: Scene) -> None:
    """SIGTERM of an edge: its clients are told to move at a pace, and come to the other one at that pace."""
    clients = scene.options.count(CLIENTS)
    scene.behind()
    drain_s = scene.options.seconds(DRAIN_S, at_least=5.0)
    going = scene.edge("edge-going", {"drain_timeout_s": f"{drain_s:g}"})
    staying = scene.edge("edge-staying")
    tenant = scene.tenant("crowd", ONE_TOKEN)
    names = sessions("crowd", clients)
    crowd_plan = Plan("crowd", urls(going, staying), tenant.token("crowd"), reads=names, timed=False)
    feeder_plan = Plan("feeder", urls(staying), tenant.token("feeder"), feeds=shared(names, FEEDERS))
    with scene.party(crowd_plan) as crowd, scene.party(feeder_plan) as feeder, scene.bystander(staying) as probe:
        feeder.ask("feed", FEED_PER_S)
        time.sleep(BEFORE_S)
        there = crowd.ask("on", urls(going)[0])
        begun_ns = time.monotonic_ns()
        going.terminate()
        status = going.wait(drain_s + LATE_S)
        storm = Stretch(begun_ns, time.monotonic_ns())
        crowd.ask("wait_up", clients, LATE_S)
        time.sleep(AFTER_S)
        feeder.ask("stop_feeding")
        loss = counted(feeder, crowd)
        moves: Moves = crowd.ask("moves")
        latencies = Latencies(probe.ask("samples"))
        arrived = [at for at in moves.welcomed_ns if at >= begun_ns]
        told, came = steepest(moves.told_ns), steepest(arrived)
        away_s = percentile([(one.resumed_ns - one.lost_ns) / 1e9 for one in moves.returns], 0.99)
        scene.report.row(SECTION, f"drain of {clients:,} in {drain_s:g} s", HELIOGRAPH, [{
            "resumed_p99_s": away_s, "told_steepness": told, "came_steepness": came,
            "storm_p99_ms": latencies.p99_ms(storm), "worst_p99_ms": latencies.worst_p99_ms(storm, WINDOW_S),
            "lost": float(loss.lost),
        }])  # fmt: skip
        cut = sum(at >= begun_ns for at in moves.cut_ns)
        scene.say(
            f"drain: {len(moves.told_ns)} of {there} were told, {cut} cut off without a word,"
            f" fullest second {told:.2f} × the mean, arrivals {came:.2f}"
        )
        scene.judge_loss("drain", loss)
        scene.judge_loss("drain, bystander", scene.bystander_loss(probe))
        if len(moves.told_ns) < there or cut or status != 0:
            words = f"{len(moves.told_ns)} of {there} were told to move, {cut} cut off without a word, status {status}"
            scene.report.faults.append(f"drain: {words}")
        gate = scene.report.gate
        gate("drain: fullest second of those told, × the mean", told, gates.DRAIN_STEEPNESS, "")
        gate("drain: fullest second of those who came, × the mean", came, gates.DRAIN_STEEPNESS, "")
    scene.rig.stop("edge-going")
    scene.judge_alive("drain")


def counted(feeder: Actor, *readers: Actor) -> Loss:
    """What was fed and what the readers have, once all that is late has come."""
    feeder.ask("settle", LATE_S)
    fed: Accounts = feeder.ask("accounts")
    wanted = {one.session: one.published for one in fed.fed}
    for reader in readers:
        reader.ask("wait_read", wanted, LATE_S)
    read = tuple(one for reader in readers for one in reader.ask("accounts").read)
    return loss_of(fed, Accounts((), read, ()))
