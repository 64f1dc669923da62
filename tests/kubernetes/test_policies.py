"""Who may talk to whom, by the NetworkPolicies as rendered: no cluster for tests has an engine that enforces them.

Judged as Kubernetes says: policies that select a pod add up, and what none of them allows is not allowed.
https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.rendering import VALUES, Chart, Rendered

EVERYTHING = VALUES / "everything.yaml"
PORTS = {"edge": 8080, "router": 8083, "replay": 8081, "registry": 8082, "operator": 8084}
OWN = "messaging"


@dataclass(frozen=True)
class Peer:
    """A pod somewhere, or an address outside."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = OWN
    address: str = ""


INGRESS = Peer({"app": "nginx"}, "ingress")
PROMETHEUS = Peer({"app": "prometheus"}, "monitoring")
STRANGER = Peer({"app": "stranger"}, "elsewhere")
NEIGHBOUR = Peer({"app": "neighbour"})
KAFKA, REDIS, COLLECTOR = Peer(address="10.1.0.9"), Peer(address="10.2.0.9"), Peer(address="10.3.0.1")
ANYWHERE = Peer(address="203.0.113.7")


@pytest.fixture(scope="module")
def chart(cluster: Cluster) -> Chart:
    return Chart(cluster)


@pytest.fixture(scope="module")
def everything(chart: Chart) -> Rendered:
    """Clients, monitoring and ways out are bounded."""
    return chart.render(values=EVERYTHING)


# ---- as Kubernetes judges --------------------------------------------------------------------------------------------


def selected(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def meant(who: Mapping[str, Any], peer: Peer) -> bool:
    """Whether one entry of `from` or `to` means the peer. A namespace here has its name as its one label."""
    if "ipBlock" in who:
        return bool(peer.address) and ipaddress.ip_address(peer.address) in ipaddress.ip_network(who["ipBlock"]["cidr"])
    if peer.address:
        return False
    there = "namespaceSelector" not in who and peer.namespace == OWN
    there = there or ("namespaceSelector" in who and selected(who["namespaceSelector"], {"name": peer.namespace}))
    return there and selected(who.get("podSelector", {}), peer.labels)


def allowed(rendered: Rendered, pod: Mapping[str, str], direction: str, peer: Peer, port: int) -> bool:
    """`direction`: Ingress, from the peer to this port of the pod, or Egress, from the pod to this port of the peer."""
    policies = [
        policy["spec"]
        for policy in rendered.all("NetworkPolicy")
        if direction in policy["spec"]["policyTypes"] and selected(policy["spec"]["podSelector"], pod)
    ]
    side = {"Ingress": "from", "Egress": "to"}[direction]
    rules = [rule for policy in policies for rule in policy.get(direction.lower(), [])]
    return not policies or any(
        (not rule.get(side) or any(meant(who, peer) for who in rule[side]))
        and ("ports" not in rule or port in {one["port"] for one in rule["ports"]})
        for rule in rules
    )


def labels(rendered: Rendered, component: str) -> dict[str, str]:
    found: dict[str, str] = rendered.get("Deployment", f"-{component}")["spec"]["template"]["metadata"]["labels"]
    return found


def comes_in(rendered: Rendered, component: str, peer: Peer) -> bool:
    return allowed(rendered, labels(rendered, component), "Ingress", peer, PORTS[component])


# ---- who comes in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", PORTS)
def test_where_peers_are_named_nobody_else_comes_in(component: str, everything: Rendered) -> None:
    for_clients = component in {"edge", "replay", "registry"}
    test = next(item for item in everything.all("Pod") if item["metadata"]["name"].endswith("-test"))
    assert comes_in(everything, component, INGRESS) is for_clients
    assert comes_in(everything, component, Peer(test["metadata"]["labels"])) is for_clients, "helm test is a client"
    assert comes_in(everything, component, PROMETHEUS)
    assert not comes_in(everything, component, STRANGER)
    assert not comes_in(everything, component, NEIGHBOUR)
    assert not allowed(everything, labels(everything, component), "Ingress", PROMETHEUS, 22)


@pytest.mark.parametrize("component", PORTS)
def test_where_nobody_is_named_everybody_comes_in_at_the_one_port_and_goes_out_anywhere(
    component: str, chart: Chart
) -> None:
    rendered = chart.render()
    assert comes_in(rendered, component, STRANGER)
    assert not allowed(rendered, labels(rendered, component), "Ingress", STRANGER, 22)
    assert allowed(rendered, labels(rendered, component), "Egress", ANYWHERE, 1234)


def test_without_policies_there_are_none(chart: Chart) -> None:
    assert chart.render("networkPolicy.enabled=false").all("NetworkPolicy") == []


# ---- where they go ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", PORTS)
def test_where_ways_out_are_bounded_pods_reach_what_is_named_and_names(component: str, everything: Rendered) -> None:
    def goes_out(peer: Peer, port: int) -> bool:
        return allowed(everything, labels(everything, component), "Egress", peer, port)

    assert goes_out(KAFKA, 9093)
    assert goes_out(REDIS, 6379)
    assert goes_out(REDIS, 26379)
    assert goes_out(COLLECTOR, 4318)
    assert goes_out(Peer({"k8s-app": "kube-dns"}, "kube-system"), 53)
    assert not goes_out(KAFKA, 22)
    assert not goes_out(ANYWHERE, 9093)
    assert not goes_out(STRANGER, 8080)
    assert goes_out(ANYWHERE, 6443) is (component == "operator"), "the API server, which has no address to name"


def test_in_the_dev_profile_bounded_pods_reach_its_kafka_and_redis(chart: Chart) -> None:
    rendered = chart.render("dev.enabled=true", "networkPolicy.egress.enabled=true")
    for name, port in (("kafka", 9092), ("redis-live", 6379), ("redis-metadata", 6379)):
        there = rendered.get("StatefulSet", f"-{name}")["spec"]["template"]["metadata"]["labels"]
        assert allowed(rendered, labels(rendered, "edge"), "Egress", Peer(there), port)
    assert not allowed(rendered, labels(rendered, "edge"), "Egress", NEIGHBOUR, 9092)


@pytest.mark.parametrize(
    ("url", "ports", "port"),
    [
        ("redis://redis", [1111], 6379),
        (r"redis+sentinel://s1:26379\,s2/main/0", [1111, 6379], 26379),
        (r"rediss+cluster://n1\,[fd00::2]:7001/0?ssl_cert_reqs=none", [1111, 6379], 7001),
    ],
)
def test_ways_out_hold_the_port_of_every_redis_that_is_named(
    url: str, ports: list[int], port: int, chart: Chart
) -> None:
    def sets(*open_: int) -> tuple[str, ...]:
        egress = "networkPolicy.egress"
        return (
            "redis.live.url=redis://live:1111",
            f"redis.metadata.url={url}",
            f"{egress}.enabled=true",
            f"{egress}.kafka[0].cidr=10.1.0.0/24",
            f"{egress}.kafka[0].ports[0]=9092",
            f"{egress}.redis[0].cidr=10.2.0.0/24",
            *(f"{egress}.redis[0].ports[{index}]={number}" for index, number in enumerate(open_)),
        )

    assert f"redis.metadata.url leads to port {port}" in chart.refusal(*sets(*ports))
    assert chart.render(*sets(*ports, port)).objects
