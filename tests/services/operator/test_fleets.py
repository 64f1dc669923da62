"""An EdgeFleet and its Deployment, look by look."""

import re
from pathlib import Path

import pytest
import yaml
from tests.services.operator.fleet_rig import (
    BEGIN,
    FLEET,
    KEY,
    NAMESPACE,
    FleetRig,
    Killed,
    conflict,
    is_marked,
    killed_at,
)

from heliograph.operator.fleets.spec import parse_spec
from heliograph.operator.kube import DEPLOYMENTS, EDGE_FLEETS, HORIZONTAL_POD_AUTOSCALERS, Kind, KubeError
from heliograph.operator.reconciler import Requeue
from heliograph.stores.ports import DrainOrder

QUICK = {
    "behavior": {
        "scaleDown": {
            "stabilizationWindowSeconds": 0,
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 1}],
        }
    },
    "drain": {"seconds": 20},
    "aheadSeconds": 0,
}
"""Shrinks without waiting."""


@pytest.fixture
def rig() -> FleetRig:
    return FleetRig()


# ---- growing -------------------------------------------------------------------------------------------------------


async def test_a_storm_is_met_at_once(rig: FleetRig) -> None:
    await rig.running(80, 80)
    await rig.reconcile()
    assert rig.replicas == 2
    for edge in rig.edges.values():
        edge.connections = 240
    await rig.pass_s(1)
    assert rig.replicas == 5
    assert rig.events() == ["ScaledUp"]
    assert rig.condition("Scaling")[0] == "True"
    await rig.until(lambda: rig.status["ready"] == 5)
    assert rig.status["lastScaleReason"] == "from 2 to 5: 480 connections, 100 for each edge"
    assert rig.condition("Scaling") == ("False", "Settled")
    assert rig.condition("Ready") == ("True", "EnoughEdges")


async def test_a_new_fleet_has_its_minimum(rig: FleetRig) -> None:
    await rig.deployment(1)
    await rig.fleet(min=3)
    await rig.until(lambda: rig.status.get("ready") == 3)
    assert rig.replicas == 3


async def test_what_limits_the_number_is_said(rig: FleetRig) -> None:
    await rig.running(400, 400, max=4)
    await rig.pass_s(2)
    assert (rig.replicas, rig.condition("Limited")) == (4, ("True", "TooManyReplicas"))
    assert rig.metrics.value("fleets", {"state": "at_max"}) == rig.metrics.value("fleets", {"state": "all"}) == 1
    await rig.change(max=10)
    await rig.until(lambda: rig.replicas == 8)
    assert rig.metrics.value("fleets", {"state": "at_max"}) == 0


# ---- shrinking -----------------------------------------------------------------------------------------------------


async def test_the_emptiest_edge_goes_once_its_clients_have_moved_and_nobody_is_cut_off(rig: FleetRig) -> None:
    await rig.running(90, 20, 70, **QUICK)
    emptiest = list(rig.edges)[1]
    await rig.pass_s(2)
    assert (rig.replicas, rig.condition("Scaling")) == (3, ("True", "Draining"))
    assert (await rig.orders.standing([emptiest]))[0].drain is not None
    assert rig.costs() == {}, "nothing but the order, until it is empty"
    await rig.until(lambda: rig.replicas == 2)
    assert rig.now - BEGIN > 20
    await rig.until(lambda: rig.condition("Scaling")[0] == "False")
    assert (rig.deleted, rig.cut_off, rig.total, rig.costs()) == ([emptiest], 0, 180, {})
    assert [reason for reason in rig.events() if reason != "Normal"] == ["Draining", "ScaledDown"]
    assert rig.condition("Ready") == ("True", "EnoughEdges")


async def test_looked_at_again_soon_only_while_an_edge_goes(rig: FleetRig) -> None:
    await rig.running(90, 20, **QUICK)
    assert await rig.reconcile() == Requeue(5.0)
    rig.edges[next(iter(rig.edges))].connections = 10
    await rig.pass_s(1)
    assert await rig.reconcile() == Requeue(1.0)


async def test_a_fleet_that_is_as_it_should_be_costs_no_write(rig: FleetRig) -> None:
    await rig.running(90, 95)
    await rig.pass_s(3)
    rig.writes()
    await rig.pass_s(100)
    rig.reconciler = rig.operator()
    await rig.pass_s(100)
    assert rig.kube.written(events=True) == []


async def test_clients_that_come_and_go_cost_a_write_now_and_then(rig: FleetRig) -> None:
    await rig.running(900, 950, targetConnections=1_000)
    await rig.pass_s(3)
    rig.writes()
    for _ in range(60):
        for edge in rig.edges.values():
            edge.connections -= 3
        await rig.pass_s(1)
    assert 1 <= len(rig.writes()) <= 3


async def test_while_fewer_hold_the_load_again_who_was_leaving_serves_again(rig: FleetRig) -> None:
    await rig.running(90, 20, 70, **QUICK)
    leaving = list(rig.edges)[1]
    await rig.pass_s(4)
    assert rig.edges[leaving].order
    for edge in rig.edges.values():
        edge.connections += 60
    await rig.pass_s(3)
    assert (rig.replicas, rig.edges[leaving].order, rig.deleted) == (4, "", [])
    assert "EdgeKept" in rig.events()


async def test_when_another_pod_went_it_is_told_and_the_drained_one_serves_again(rig: FleetRig) -> None:
    await rig.running(90, 10, 90, **QUICK)
    drained = list(rig.edges)[1]
    await rig.until(lambda: rig.replicas == 2)
    bystander = list(rig.edges)[2]
    rig.delete(bystander)
    await rig.pass_s(4)
    assert rig.deleted == [bystander]
    assert "AnotherPodWent" in rig.events()
    assert (rig.edges[drained].order, rig.costs()) == ("", {})
    assert rig.metrics.value("fleet_drains_total", {"result": "another_went"}) == 1


async def test_an_edge_that_knows_no_orders_goes_all_the_same(rig: FleetRig) -> None:
    await rig.running(90, 10, **QUICK, targetConnections=200)
    old = list(rig.edges)[1]
    rig.edges[old].obeys = False
    await rig.until(lambda: rig.replicas == 1)
    await rig.pass_s(2)
    assert rig.deleted == [old]
    assert rig.events().count("DrainNotObeyed") == 1


async def test_the_last_window_counts_before_fewer_are_wanted(rig: FleetRig) -> None:
    await rig.running(90, 90, 90, aheadSeconds=0)
    for edge in rig.edges.values():
        edge.connections = 10
    await rig.pass_s(290)
    assert (rig.replicas, rig.status["draining"], rig.condition("Limited")) == (
        3, 0, ("True", "ScaleDownStabilized"),
    )  # fmt: skip
    await rig.until(lambda: rig.replicas == 1)
    assert rig.cut_off == 0


# ---- what is not known ---------------------------------------------------------------------------------------------


async def test_with_the_store_away_nothing_shrinks_and_the_fallback_counts(rig: FleetRig) -> None:
    await rig.running(10, 10, **QUICK, fallback={"replicas": 4, "afterSeconds": 30})
    rig.connections.away = True
    await rig.pass_s(29)
    assert (rig.replicas, rig.condition("LoadKnown")) == (2, ("False", "StoreUnavailable"))
    assert rig.metrics.value("fleets", {"state": "load_unknown"}) == 1
    await rig.pass_s(5)
    assert rig.replicas == 4
    assert "StoreUnavailable" in rig.events()
    rig.connections.away = False
    await rig.until(lambda: rig.replicas == 1)
    assert rig.cut_off == 0


async def test_a_drain_under_way_waits_for_the_store(rig: FleetRig) -> None:
    await rig.running(90, 20, 70, **QUICK)
    await rig.until(lambda: is_marked(rig) or rig.status.get("draining") == 1)
    rig.connections.away = True
    await rig.pass_s(60)
    assert (rig.replicas, rig.costs()) == (3, {})
    rig.connections.away = False
    await rig.until(lambda: rig.replicas == 2)
    assert rig.cut_off == 0


async def test_one_silent_edge_keeps_the_fleet_as_large_as_it_is(rig: FleetRig) -> None:
    await rig.running(10, 10, 10, **QUICK)
    rig.edges[next(iter(rig.edges))].silent = True
    await rig.pass_s(7, reconcile=False)
    await rig.pass_s(30)
    assert (rig.replicas, rig.condition("LoadKnown")) == (3, ("False", "EdgesSilent"))


async def test_a_deployment_that_is_not_there_is_a_condition(rig: FleetRig) -> None:
    await rig.fleet()
    assert await rig.reconcile() == Requeue(5.0)
    assert rig.condition("Ready") == ("False", "DeploymentNotFound")
    await rig.deployment(1)
    await rig.until(lambda: rig.condition("Ready") == ("True", "EnoughEdges"))
    await rig.kube.delete(DEPLOYMENTS, NAMESPACE, "edge")
    await rig.reconcile()
    assert rig.condition("Ready") == ("False", "DeploymentNotFound")


# ---- who else ------------------------------------------------------------------------------------------------------


async def test_an_autoscaler_on_the_deployment_is_a_conflict_and_stops_writes(rig: FleetRig) -> None:
    await rig.running(300, 300)
    await rig.autoscaler()
    await rig.pass_s(20)
    assert rig.condition("Ready") == ("False", "Conflict")
    assert (rig.replicas, {kind for _, kind in rig.writes()}) == (2, {"HorizontalPodAutoscaler", "EdgeFleet/status"})
    await rig.kube.delete(HORIZONTAL_POD_AUTOSCALERS, NAMESPACE, "hpa")
    await rig.pass_s(1)
    assert rig.replicas == 6


async def test_an_autoscaler_on_something_else_is_none(rig: FleetRig) -> None:
    await rig.running(300, 300)
    await rig.autoscaler("EdgeFleet", FLEET)
    await rig.pass_s(1)
    assert rig.replicas == 6


async def test_of_two_fleets_of_one_deployment_the_older_one_counts(rig: FleetRig) -> None:
    await rig.running(300, 300)
    await rig.fleet("younger", max=3)
    await rig.reconciler.reconcile(type(KEY)("EdgeFleet", NAMESPACE, "younger"))
    conditions = rig.kube.one(EDGE_FLEETS, NAMESPACE, "younger")["status"]["conditions"]
    assert [one["reason"] for one in conditions if one["type"] == "Ready"] == ["Conflict"]
    await rig.pass_s(1)
    assert rig.replicas == 6


@pytest.mark.parametrize("mode", ["External", "Manual"])
async def test_somebody_else_says_how_many_and_edges_drain_as_ever(rig: FleetRig, mode: str) -> None:
    await rig.running(40, 30, 20, mode=mode, replicas=3, drain={"seconds": 20})
    await rig.pass_s(30)
    assert rig.replicas == 3
    await rig.change(replicas=1)
    await rig.until(lambda: rig.replicas == 1)
    await rig.pass_s(3)
    assert (rig.cut_off, rig.total, len(rig.pods)) == (0, 90, 1)
    await rig.change(replicas=4)
    await rig.pass_s(2)
    assert rig.replicas == 4


async def test_from_outside_never_fewer_than_hold_the_clients(rig: FleetRig) -> None:
    await rig.running(90, 90, 90, mode="External", replicas=1, drain={"seconds": 10})
    await rig.pass_s(100)
    assert (rig.replicas, rig.condition("Limited")) == (3, ("True", "HoldsConnections"))


# ---- left alone ----------------------------------------------------------------------------------------------------


async def test_a_paused_fleet_is_left_alone_and_looked_at(rig: FleetRig) -> None:
    await rig.running(300, 300)
    await rig.annotate(heliograph_dev__paused="true")
    await rig.pass_s(10)
    assert (rig.replicas, rig.condition("Paused")) == (2, ("True", "Paused"))
    assert rig.status["connections"] == 600
    await rig.annotate(heliograph_dev__paused=None)
    await rig.change(paused=True)
    await rig.pass_s(2)
    assert rig.replicas == 2
    await rig.change(paused=None)
    await rig.pass_s(2)
    assert (rig.replicas, rig.condition("Paused")) == (6, ("False", "NotPaused"))
    assert {"Paused", "Resumed"} <= set(rig.events())


async def test_an_edge_that_was_draining_serves_again_when_nobody_looks_after_the_fleet(rig: FleetRig) -> None:
    await rig.running(90, 20, 70, **QUICK)
    await rig.pass_s(3)
    leaving = list(rig.edges)[1]
    assert rig.edges[leaving].order
    await rig.pass_s(300, reconcile=False)
    assert rig.edges[leaving].order == ""


async def test_a_fleet_that_is_deleted_leaves_everything_as_it_is(rig: FleetRig) -> None:
    await rig.running(300, 300)
    await rig.reconcile()
    assert rig.metrics.value("fleets", {"state": "all"}) == 1
    replicas = rig.replicas
    await rig.kube.delete(EDGE_FLEETS, NAMESPACE, FLEET)
    assert await rig.reconcile() is None
    assert rig.metrics.value("fleets", {"state": "all"}) == 0
    assert rig.replicas == replicas


async def test_nobody_goes_during_a_rollout_and_who_was_leaving_serves_again(rig: FleetRig) -> None:
    await rig.running(90, 20, 70, **QUICK)
    await rig.pass_s(3)
    assert rig.status["draining"] == 1
    before = set(rig.edges)
    rig.rollout()
    await rig.pass_s(2)
    assert rig.condition("Scaling") == ("True", "RolloutInProgress")
    assert all(not edge.order for edge in rig.edges.values())
    await rig.until(lambda: rig.replicas == 2)
    assert not before & set(rig.edges), "it went on once all were new"
    assert set(rig.deleted) >= before


async def test_somebody_elses_drain_order_is_not_withdrawn(rig: FleetRig) -> None:
    await rig.running(90, 20, 90, **QUICK)
    by_hand = next(iter(rig.edges))
    await rig.orders.drain(by_hand, DrainOrder("by-hand", 5.0), 1_000)
    await rig.pass_s(100)
    assert rig.edges[by_hand].order == "by-hand"


# ---- restarts and companions ---------------------------------------------------------------------------------------


async def test_an_operator_that_starts_anew_shrinks_nothing_before_a_window_has_passed(rig: FleetRig) -> None:
    await rig.running(10, 10, 10)
    await rig.pass_s(200)
    rig.reconciler = rig.operator()
    await rig.pass_s(200)
    assert rig.replicas == 3
    assert not rig.events()


async def _down_to(rig: FleetRig, replicas: int) -> None:
    await rig.until(lambda: rig.replicas == replicas and len(rig.pods) == replicas and not rig.costs())
    await rig.until(lambda: rig.condition("Scaling")[0] == "False")


@pytest.mark.parametrize("every", [3, 7, 8, 9, 10, 11])
async def test_an_operator_that_is_ended_at_any_call_goes_on_where_it_was(rig: FleetRig, every: int) -> None:
    """Again and again, at each of its calls in turn."""
    await rig.running(60, 20, 40, 30, mode="External", replicas=2, drain={"seconds": 8})
    for second in range(400):
        rig.kube.before = killed_at(rig.kube, 1 + (second * every) % 13)
        try:
            await rig.second()
        except Killed:
            rig.reconciler = rig.operator()
    rig.kube.before = lambda verb, kind, name: None
    await _down_to(rig, 2)
    assert (rig.cut_off, rig.total, len(rig.deleted)) == (0, 150, 2)


async def test_two_operators_at_once_do_no_harm(rig: FleetRig) -> None:
    await rig.running(60, 20, 40, 30, **QUICK)
    other = rig.operator()
    for _ in range(200):
        await rig.second()
        await other.reconcile(KEY)
    await _down_to(rig, 2)
    assert (rig.cut_off, rig.total, len(rig.deleted)) == (0, 150, 2)
    rig.writes()
    for _ in range(100):
        await rig.second()
        await other.reconcile(KEY)
    assert rig.writes() == []


async def test_a_deployment_that_changed_meanwhile_is_looked_at_again(rig: FleetRig) -> None:
    await rig.running(300, 300)
    rig.kube.before = conflict
    assert await rig.reconcile() == Requeue(0.5)
    assert (rig.replicas, rig.events()) == (2, [])
    rig.kube.before = lambda verb, kind, name: None
    await rig.reconcile()
    assert rig.replicas == 6


async def test_what_the_server_refuses_is_an_error_for_the_queue(rig: FleetRig) -> None:
    await rig.running(300, 300)

    def forbidden(verb: str, kind: Kind, name: str) -> None:
        if verb == "patch" and kind == DEPLOYMENTS:
            raise KubeError("kube_forbidden", f"{name}: no", 403)

    rig.kube.before = forbidden
    with pytest.raises(KubeError, match="no"):
        await rig.reconcile()


async def test_a_spec_that_makes_no_sense_is_a_condition(rig: FleetRig) -> None:
    """As one that was stored before a rule was there."""
    await rig.fleet(min=5, max=2)
    assert await rig.reconcile() is None
    assert rig.condition("Ready") == ("False", "Invalid")


# ---- spreading -----------------------------------------------------------------------------------------------------


async def test_after_an_edge_was_added_the_fullest_are_asked_to_shed(rig: FleetRig) -> None:
    await rig.running(1_500, 1_500, targetConnections=1_000, rebalance={"percentPerMinute": 50})
    full = list(rig.edges)
    await rig.until(lambda: rig.status.get("ready") == 3)
    await rig.pass_s(15)
    shed = [standing.shed for standing in await rig.orders.standing(full)]
    assert [one.connections if one else 0 for one in shed] == [250, 250]
    assert rig.events().count("Rebalancing") == 2
    await rig.pass_s(30)
    assert rig.events().count("Rebalancing") == 2, "one a minute"


async def test_nobody_is_asked_unless_the_fleet_says_so(rig: FleetRig) -> None:
    await rig.running(1_500, 1_500, targetConnections=1_000)
    full = list(rig.edges)
    await rig.until(lambda: rig.status.get("ready") == 3)
    await rig.pass_s(60)
    assert [standing.shed for standing in await rig.orders.standing(full)] == [None, None]


async def test_a_fleet_without_the_labels_is_another_operators(rig: FleetRig) -> None:
    rig.labels = {"environment": "staging"}
    rig.reconciler = rig.operator()
    (watch,) = rig.reconciler.watches
    assert watch.labels == "environment=staging"
    await rig.deployment(1)
    await rig.fleet()
    await rig.reconciler.reconcile(KEY)
    assert "status" not in rig.kube.one(EDGE_FLEETS, NAMESPACE, FLEET)
    await rig.kube.patch(EDGE_FLEETS, NAMESPACE, FLEET, {"metadata": {"labels": rig.labels}})
    await rig.reconciler.reconcile(KEY)
    assert rig.kube.one(EDGE_FLEETS, NAMESPACE, FLEET)["status"]["desired"] >= 1


# ---- papers --------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[3]


def test_the_example_says_the_defaults() -> None:
    said = yaml.safe_load((ROOT / "deploy" / "examples" / "kubernetes" / "edgefleet.yaml").read_text())["spec"]
    without_default = {"targetMessagesPerSecond", "rebalance", "fallback"}
    rest = {name: value for name, value in said.items() if name not in without_default}
    assert without_default <= said.keys()
    assert parse_spec(rest) == parse_spec({name: said[name] for name in ("deploymentRef", "min", "max")})
    assert parse_spec(said).rebalance_share == 0.1


def test_the_page_shows_a_fleet_that_is_one() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "fleets.md").read_text(), re.DOTALL)
    assert parse_spec(yaml.safe_load(shown)["spec"]).deployment == "edge"
