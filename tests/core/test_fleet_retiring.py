"""Which edges go, and the steps of their going: on a Deployment that behaves as Kubernetes' controllers do."""

import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.core.fleet.retiring import (
    DELETION_COST,
    DRAIN_GRACE_S,
    OBEYED_S,
    ClearCost,
    Deployment,
    Drain,
    Draining,
    Order,
    Phase,
    Plan,
    Pod,
    SetCost,
    SetReplicas,
    Withdraw,
    intended,
    order_id,
    plan,
)

DRAINING = Draining(over_s=60)


def pod(name: str = "a", **given: Any) -> Pod:
    chosen: dict[str, Any] = {
        "uid": f"uid-{name}",
        "replica_set": "rs-1",
        "running": True,
        "ready": True,
        "created": 0.0,
        "connections": 100,
        **given,
    }
    return Pod(name, **chosen)


def told(name: str = "a", age_s: float = 5.0, over_s: float = 60.0, **given: Any) -> Pod:
    """Ordered to drain, and obeying unless said otherwise."""
    plain = pod(name, **{"ready": False, **given})
    found = replace(plain, order=Drain(order_id(plain), over_s, age_s))
    return found if "obeys" in given else replace(found, obeys=order_id(plain))


def names(plan: Plan, kind: type) -> list[str]:
    return [step.pod.name for step in plan.steps if isinstance(step, kind) and not isinstance(step, SetReplicas)]


def replicas(plan: Plan) -> int | None:
    found = [step.replicas for step in plan.steps if isinstance(step, SetReplicas)]
    assert len(found) <= 1
    return found[0] if found else None


def settled(count: int) -> Deployment:
    return Deployment(count, rolling=False)


# ---- whom ----------------------------------------------------------------------------------------------------------


def test_the_emptiest_goes_and_first_what_takes_no_clients() -> None:
    pods = [pod("full", connections=900), pod("some", connections=10), pod("more", connections=11)]
    assert names(plan(settled(3), pods, 2, DRAINING), Order) == ["some"]
    pods.append(pod("down", ready=False, connections=500))
    assert names(plan(settled(4), pods, 3, DRAINING), Order) == ["down"]
    pods.append(pod("pending", ready=False, running=False, connections=None))
    assert names(plan(settled(5), pods, 4, DRAINING), Order) == ["pending"]


def test_of_equals_the_youngest_goes() -> None:
    pods = [pod("old", created=1.0), pod("young", created=9.0), pod("middle", created=5.0)]
    assert names(plan(settled(3), pods, 2, DRAINING), Order) == ["young"]


def test_an_edge_that_takes_clients_and_does_not_say_how_many_comes_last() -> None:
    pods = [pod("silent", connections=None), pod("full", connections=50_000)]
    assert names(plan(settled(2), pods, 1, DRAINING), Order) == ["full"]


def test_as_many_at_once_as_was_said() -> None:
    pods = [pod(name, connections=load) for load, name in enumerate("abcde")]
    assert names(plan(settled(5), pods, 1, DRAINING), Order) == ["a"]
    assert names(plan(settled(5), pods, 1, Draining(edges_at_once=3)), Order) == ["a", "b", "c"]
    assert names(plan(settled(5), pods, 4, Draining(edges_at_once=3)), Order) == ["a"]


def test_an_edge_with_many_clients_gets_the_time_that_the_others_need_to_take_them() -> None:
    (step,) = plan(settled(2), [pod("a", connections=30_000), pod("b", connections=40_000)], 1, DRAINING).steps
    assert isinstance(step, Order)
    assert step.over_s == 150.0
    (step,) = plan(settled(2), [pod("a", connections=0), pod("b")], 1, DRAINING).steps
    assert isinstance(step, Order)
    assert step.over_s == 60.0


def test_somebody_elses_order_is_left_alone() -> None:
    other = replace(pod("a", ready=False, connections=0), order=Drain("by-hand", 60, 5), obeys="by-hand")
    found = plan(settled(2), [other, pod("b")], 1, DRAINING)
    assert names(found, Order) == ["b"]
    assert names(plan(settled(2), [other, pod("b")], 2, DRAINING), Withdraw) == []


# ---- step by step --------------------------------------------------------------------------------------------------


def test_clients_are_moved_before_anything_else_is_done() -> None:
    found = plan(settled(2), [pod("a", connections=1), pod("b")], 1, DRAINING)
    assert (found.phase, names(found, Order), replicas(found)) == (Phase.DRAINING, ["a"], None)
    for waiting in (told("a", connections=1), told("a", connections=0, ready=True), told("a", connections=0, obeys="")):
        found = plan(settled(2), [waiting, pod("b")], 1, DRAINING)
        assert (found.phase, names(found, Order), replicas(found)) == (Phase.DRAINING, ["a"], None)
        assert names(found, SetCost) == []


def test_a_drained_edge_is_marked_and_the_count_lowered() -> None:
    found = plan(settled(3), [told("a", connections=0), pod("b"), pod("c")], 2, DRAINING)
    assert [type(step) for step in found.steps] == [Order, SetCost, SetReplicas]
    assert (found.phase, replicas(found)) == (Phase.REMOVING, 2)
    marked = told("a", connections=0, cost=DELETION_COST)
    found = plan(settled(3), [marked, pod("b"), pod("c")], 2, DRAINING)
    assert [type(step) for step in found.steps] == [Order, SetReplicas], "begun before, and gone on with"


def test_an_edge_that_is_gone_has_no_clients() -> None:
    found = plan(settled(2), [told("a", connections=None), pod("b")], 1, DRAINING)
    assert replicas(found) == 1


def test_while_the_controller_has_not_deleted_it_nothing_more_goes() -> None:
    pods = [told("a", connections=0, cost=DELETION_COST), pod("b"), pod("c")]
    for wanted in (1, 2):
        found = plan(settled(2), pods, wanted, DRAINING)
        assert (found.phase, found.steps) == (Phase.REMOVING, ())


def test_when_another_one_went_the_one_that_was_drained_serves_again_or_is_next() -> None:
    pods = [told("a", connections=0, cost=DELETION_COST), pod("b")]
    found = plan(settled(2), pods, 2, DRAINING)
    assert [type(step) for step in found.steps] == [ClearCost, Withdraw]
    assert replicas(plan(settled(2), pods, 1, DRAINING)) == 1


def test_when_more_are_wanted_again_those_that_were_leaving_serve_again() -> None:
    pods = [told("a", connections=3), pod("b")]
    found = plan(settled(2), pods, 2, DRAINING)
    assert (found.phase, names(found, Withdraw)) == (Phase.SETTLED, ["a"])
    found = plan(settled(2), pods, 4, DRAINING)
    assert (names(found, Withdraw), replicas(found)) == (["a"], 4)


def test_when_fewer_go_than_were_leaving_the_fullest_of_them_serves_again() -> None:
    pods = [told("a", connections=3), told("b", connections=90), pod("c")]
    found = plan(settled(3), pods, 2, Draining(edges_at_once=2))
    assert (names(found, Withdraw), names(found, Order)) == (["b"], ["a"])


def test_nobody_goes_during_a_rollout() -> None:
    two_sets = [pod("a", replica_set="rs-2"), pod("b")]
    for deployment, pods in ((Deployment(2, rolling=True), [pod("a"), pod("b")]), (settled(2), two_sets)):
        found = plan(deployment, pods, 1, DRAINING)
        assert (found.phase, found.steps) == (Phase.ROLLOUT, ())
    found = plan(Deployment(2, rolling=True), [told("a", cost=DELETION_COST), pod("b"), pod("c")], 1, DRAINING)
    assert [type(step) for step in found.steps] == [ClearCost, Withdraw], "and who was leaving serves again"
    assert replicas(plan(Deployment(2, rolling=True), [pod("a")], 3, DRAINING)) == 3, "more may come"


def test_the_place_of_a_pod_that_is_not_there_goes_first() -> None:
    assert plan(settled(5), [pod("a"), pod("b")], 1, DRAINING).steps == (SetReplicas(2),)
    assert plan(settled(5), [pod("a"), pod("b")], 4, DRAINING).steps == (SetReplicas(4),)


def test_a_mark_that_was_left_is_wiped_off() -> None:
    left = pod("a", cost=DELETION_COST)
    assert plan(settled(2), [left, pod("b")], 2, DRAINING).steps == (ClearCost(left),)
    assert names(plan(settled(2), [left, pod("b")], 1, DRAINING), ClearCost) == ["a"]
    own = pod("a", cost=-5)
    assert plan(settled(2), [own, pod("b")], 2, DRAINING).steps == (), "another cost than ours is somebody else's"


@pytest.mark.parametrize(
    "stuck",
    [
        told("a", age_s=OBEYED_S + 1, obeys="", ready=True),
        told("a", age_s=60 + DRAIN_GRACE_S + 1, ready=True),
        told("a", age_s=60 + DRAIN_GRACE_S + 1, connections=3),
    ],
)
def test_an_edge_that_does_not_do_as_it_is_told_goes_all_the_same(stuck: Pod) -> None:
    found = plan(settled(2), [stuck, pod("b")], 1, DRAINING)
    assert (found.disobedient, replicas(found)) == ((stuck,), 1)


def test_an_edge_that_is_still_ready_is_not_taken_while_the_controller_would_pick_another() -> None:
    stuck = told("a", age_s=OBEYED_S + 1, obeys="", ready=True)
    found = plan(settled(3), [stuck, pod("b", ready=False), pod("c")], 2, DRAINING)
    assert (found.phase, replicas(found)) == (Phase.OTHER_NOT_READY, None)


# ---- on controllers ------------------------------------------------------------------------------------------------


@dataclass
class Cluster:
    """A Deployment of one ReplicaSet, its controller, and edges that do as they are told. One step a call."""

    dice: random.Random
    replicas: int = 0
    pods: dict[str, Pod] = field(default_factory=dict)
    made: int = 0
    moved: int = 0
    """Clients who were moved to another edge by their own edge."""
    cut_off: int = 0
    """Clients whose edge was deleted while they were on it."""
    deleted: list[str] = field(default_factory=list)

    def grow(self, connections: int | None) -> None:
        self.made += 1
        ready = connections is not None
        name = f"p{self.made}"
        self.pods[name] = pod(name, created=float(self.made), connections=connections, ready=ready, running=ready)

    def reconcile(self) -> None:
        """As the ReplicaSet controller ranks them (`controller.ActivePodsWithRanks`), the last difference made up."""
        while len(self.pods) < self.replicas:
            self.grow(None)
        while len(self.pods) > self.replicas:
            gone = min(
                self.pods.values(), key=lambda one: (one.running, one.ready, one.cost or 0, -one.created, one.name)
            )
            del self.pods[gone.name]
            self.deleted.append(gone.name)
            self.cut_off += gone.connections or 0

    def live(self) -> None:
        """One of the things that happen by themselves happens."""
        for name, one in list(self.pods.items()):
            if self.dice.random() < 0.5:
                continue
            if one.told:
                assert one.order is not None
                left = max((one.connections or 0) - self.dice.randint(1, 60), 0)
                if one.obeys:
                    self._spread(name, (one.connections or 0) - left)
                one = replace(  # noqa: PLW2901
                    one,
                    obeys=one.order.id,
                    ready=False,
                    running=True,
                    connections=left if one.obeys else one.connections or 0,
                )
            else:
                one = replace(one, ready=True, running=True, connections=one.connections or 0, obeys="")  # noqa: PLW2901
            self.pods[name] = one

    def _spread(self, name: str, count: int) -> None:
        others = [other for other in self.pods.values() if other.name != name and other.ready]
        if others:
            other = self.dice.choice(others)
            self.pods[other.name] = replace(other, connections=(other.connections or 0) + count)
        self.moved += count

    def take(self, step: object) -> None:
        if isinstance(step, SetReplicas):
            self.replicas = step.replicas
            return
        assert isinstance(step, Order | Withdraw | SetCost | ClearCost)
        one = self.pods.get(step.pod.name)
        if one is None:
            return
        if isinstance(step, Order):
            one = replace(one, order=one.order or Drain(order_id(one), step.over_s, 0.0))
        elif isinstance(step, Withdraw):
            one = replace(one, order=None)
        else:
            one = replace(one, cost=DELETION_COST if isinstance(step, SetCost) else None)
        self.pods[one.name] = one


@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=8),
    st.lists(st.integers(1, 8), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(0, 2**32),
)
@settings(max_examples=200)
def test_whoever_is_ended_between_any_two_steps_it_comes_to_what_was_wanted(
    loads: list[int], wishes: list[int], at_once: int, seed: int
) -> None:
    """Two operators, each ended anywhere, wishes that change meanwhile: nobody is cut off, and nothing is left over."""
    dice = random.Random(seed)
    cluster = Cluster(dice, replicas=len(loads))
    for load in loads:
        cluster.grow(load)
    draining = Draining(edges_at_once=at_once)
    for number, wanted in enumerate(wishes):
        last = number == len(wishes) - 1
        for _ in range(2_000 if last else dice.randint(0, 30)):
            found = plan(settled(cluster.replicas), list(cluster.pods.values()), wanted, draining)
            if found.phase is Phase.SETTLED and not found.steps and cluster.replicas == wanted:
                break
            for step in found.steps[: dice.randint(0, len(found.steps))]:
                cluster.take(step)
                if isinstance(step, SetReplicas) and dice.random() < 0.5:
                    break
            for happening in dice.sample([cluster.reconcile, cluster.live], 2):
                if dice.random() < 0.8:
                    happening()
        else:
            assert not last, "it does not come to an end"
    assert cluster.replicas == wishes[-1]
    cluster.reconcile()
    assert len(cluster.pods) == wishes[-1]
    assert not any(one.order or one.marked for one in cluster.pods.values())
    assert cluster.cut_off == 0


@given(st.integers(1, 6), st.integers(0, 3), st.integers(0, 3))
def test_those_on_their_way_out_are_counted_once(serving: int, leaving: int, about_to_go: int) -> None:
    pods = [pod(f"s{number}") for number in range(serving)]
    pods += [told(f"l{number}", connections=0) for number in range(leaving + about_to_go)]
    deployment = settled(serving + leaving)
    assert intended(deployment, pods) == serving
