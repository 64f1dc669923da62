"""What the chart renders: whole, as snapshots, and rule by rule.

HELIOGRAPH_UPDATE_SNAPSHOTS=1 writes the snapshots anew; `git diff` then shows what a change of the chart changes.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kubernetes.cluster import ROOT, Cluster
from tests.kubernetes.installation import CHART, DEV_VALUES
from tests.kubernetes.rendering import MINIMAL, VALUES, Chart
from tests.local.papers import Block, blocks
from tests.monitoring.alerts import RUNBOOKS, groups

SNAPSHOTS = Path(__file__).parent / "snapshots"
CASES = {"minimal": MINIMAL, "everything": VALUES / "everything.yaml", "bare": VALUES / "bare.yaml", "dev": DEV_VALUES}
INSTALL_PAGE = ROOT / "docs" / "install.md"
SERVICES = ("edge", "router", "replay", "registry", "operator")


@pytest.fixture(scope="module")
def chart(cluster: Cluster) -> Chart:
    return Chart(cluster)


@pytest.mark.parametrize("case", CASES)
def test_the_chart_renders_what_the_snapshot_shows(case: str, chart: Chart) -> None:
    text = _without_dashboards(chart.render(values=CASES[case]).text)
    snapshot = SNAPSHOTS / f"{case}.yaml"
    if os.environ.get("HELIOGRAPH_UPDATE_SNAPSHOTS"):
        snapshot.write_text(text, encoding="utf-8")
    assert text == snapshot.read_text(encoding="utf-8")


@pytest.mark.parametrize("case", CASES)
def test_helm_4_renders_the_same_but_for_empty_lines(case: str, helm4: Cluster) -> None:
    rendered = _without_dashboards(Chart(helm4).render(values=CASES[case]).text)
    assert shown(rendered) == shown(_snapshot(case))


def test_every_template_is_in_a_snapshot(chart: Chart) -> None:
    sources = {
        name for case in CASES for name in re.findall(r"^# Source: heliograph/(\S+)$", _snapshot(case), re.MULTILINE)
    }
    templates = {str(path.relative_to(CHART)) for path in (CHART / "templates").rglob("*.yaml")}
    assert sources == templates


def shown(text: str) -> list[str]:
    """Lines with something in them."""
    return [line for line in text.splitlines() if line.strip()]


def _without_dashboards(text: str) -> str:
    """Of each dashboard its file's name: a test of its own compares what it holds with what is rendered."""
    return re.sub(r"^(  heliograph-(\S+\.json): ).*$", r"\1<files/dashboards/\2>", text, flags=re.MULTILINE)


def _snapshot(case: str) -> str:
    return (SNAPSHOTS / f"{case}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "example", sorted((ROOT / "deploy" / "examples" / "values").iterdir()), ids=lambda path: path.stem
)
def test_the_examples_of_values_render(example: Path, chart: Chart) -> None:
    rendered = chart.render(values=example)
    assert {"edge", "router", "replay", "registry", "operator"} <= rendered.names("Deployment")


@pytest.mark.parametrize(
    "block", [block for block in blocks(INSTALL_PAGE, "yaml") if "\nkind:" not in block.text], ids=str
)
def test_values_that_the_page_on_installing_shows_render(block: Block, chart: Chart, tmp_path: Path) -> None:
    shown = yaml.safe_load(block.text)
    values = tmp_path / "values.yaml"
    values.write_text(
        yaml.safe_dump({**yaml.safe_load(MINIMAL.read_text(encoding="utf-8")), **shown}), encoding="utf-8"
    )
    assert chart.render(values=values).objects


def test_the_examples_for_gitops_have_values_that_the_chart_takes(chart: Chart, tmp_path: Path) -> None:
    examples = ROOT / "deploy" / "examples"
    application = yaml.safe_load((examples / "gitops" / "argocd-application.yaml").read_text(encoding="utf-8"))
    source = application["spec"]["source"]
    for file in source["helm"]["valueFiles"]:
        assert chart.render(values=(ROOT / source["path"] / file).resolve()).all("Job") == []
    *_, release = yaml.safe_load_all((examples / "gitops" / "flux-helmrelease.yaml").read_text(encoding="utf-8"))
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(release["spec"]["values"]), encoding="utf-8")
    assert chart.render(values=values).all("Job") == []


@pytest.mark.parametrize("case", CASES)
def test_the_chart_passes_helms_strict_lint(case: str, each_helm: Cluster) -> None:
    assert "0 chart(s) failed" in Chart(each_helm).lint("--values", str(CASES[case]))


@pytest.mark.parametrize("case", ["everything", "dev"])
def test_names_fit_and_differ_however_long_release_and_namespace_are(case: str, chart: Chart) -> None:
    """A release has 53 characters at most, a namespace 63, a label 63; a StatefulSet's pods have one with 11 more."""
    release, longest = "r" * 53, "n" * 62
    objects = [
        item
        for last in "ab"
        for item in chart.render(values=CASES[case], release=release, namespace=longest + last).objects
    ]
    for item in objects:
        most = {"StatefulSet": 63 - 11}.get(item["kind"], 63)
        assert item["kind"].startswith(("Cluster", "Validating")) or len(item["metadata"]["name"]) <= most, item["kind"]
        assert all(len(value) <= 63 for value in item["metadata"]["labels"].values())
    everywhere = [
        (item["kind"], item["metadata"]["name"])
        for item in objects
        if item["kind"].startswith(("Cluster", "Validating"))
    ]
    assert len(set(everywhere)) == len(everywhere) >= 2


# ---- edges belong to their fleet -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_the_number_of_edges_is_never_in_the_deployment(case: str, chart: Chart) -> None:
    rendered = chart.render(values=CASES[case])
    assert "replicas" not in rendered.get("Deployment", "-edge")["spec"]
    if "operator" in rendered.names("Deployment"):
        assert rendered.get("EdgeFleet", "-edge")["spec"]["deploymentRef"]["name"] == "hg-heliograph-edge"


def test_a_fixed_number_of_edges_is_a_fleet_whose_min_is_its_max(chart: Chart) -> None:
    spec = chart.render("edge.fleet.min=4", "edge.fleet.max=4").get("EdgeFleet", "-edge")["spec"]
    assert (spec["min"], spec["max"]) == (4, 4)


def test_the_rest_of_a_fleet_is_passed_through(chart: Chart) -> None:
    spec = chart.render(values=CASES["everything"]).get("EdgeFleet", "-edge")["spec"]
    assert spec["targetConnections"] == 8000
    assert spec["drain"] == {"seconds": 120, "connectionsPerSecond": 100}


# ---- going away ------------------------------------------------------------------------------------------------------


def test_the_grace_period_follows_from_what_happens_in_it(chart: Chart) -> None:
    def grace(*sets: str) -> int:
        return int(chart.render(*sets).pod("edge")["terminationGracePeriodSeconds"])

    base = grace()
    assert base > 60 + 4, "the drain, and the time to stop"
    assert grace("edge.drain.timeoutSeconds=100") == base + 40
    assert grace("edge.preStopSeconds=10") == base + 10
    assert grace("settings.stop_timeout_s=9") == base + 2 * 5
    assert grace("edge.settings.stop_timeout_s=9") == base + 2 * 5


def test_a_pre_stop_hook_needs_no_shell_and_is_there_only_where_it_waits(chart: Chart) -> None:
    rendered = chart.render("edge.preStopSeconds=7")
    assert rendered.container("edge")["lifecycle"] == {"preStop": {"sleep": {"seconds": 7}}}
    assert "lifecycle" not in rendered.container("router")


@pytest.mark.parametrize("component", SERVICES)
def test_neither_a_drain_nor_a_dead_broker_kills_a_pod(component: str, chart: Chart) -> None:
    container = chart.render().container(component)
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_one_of_several_may_be_evicted_and_a_single_one_always(chart: Chart) -> None:
    rendered = chart.render("replay.replicas=1")
    assert rendered.names("PodDisruptionBudget") == {"edge", "router", "registry"}
    for budget in rendered.all("PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert "edge" not in chart.render("edge.fleet.min=1", "edge.fleet.max=1").names("PodDisruptionBudget")
    assert "edge" not in chart.render("edge.podDisruptionBudget.enabled=false").names("PodDisruptionBudget")


def test_there_is_one_operator_and_never_two_for_a_moment(chart: Chart) -> None:
    spec = chart.render().get("Deployment", "-operator")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_a_change_of_settings_rolls_the_pods_and_nothing_else_does(chart: Chart) -> None:
    def template(*sets: str) -> Any:
        return chart.render(*sets).get("Deployment", "-router")["spec"]["template"]

    assert template() == template("edge.fleet.max=20", "ingress.enabled=true", "ingress.host=a.example")
    assert template() != template("settings.log_level=debug")
    assert template() != template("kafka.topicPrefix=other")


# ---- credentials -----------------------------------------------------------------------------------------------------


def test_credentials_are_only_referenced(chart: Chart) -> None:
    rendered = chart.render(values=CASES["everything"])
    environment = rendered.environment("router")
    assert environment["HELIOGRAPH_REDIS_URL"] == {"secretKeyRef": {"name": "redis-live", "key": "url"}}
    assert environment["KAFKA_PASSWORD"] == {"secretKeyRef": {"name": "kafka-user", "key": "password"}}
    properties = json.loads(environment["HELIOGRAPH_KAFKA_PROPERTIES"])
    assert properties["sasl.password"] == "$(KAFKA_PASSWORD)"
    assert properties["sasl.mechanism"] == "SCRAM-SHA-512"
    assert properties["security.protocol"] == "SASL_SSL"
    assert "HELIOGRAPH_REDIS_URL" not in rendered.settings
    assert rendered.all("Secret") == []


def test_tls_names_the_files_that_are_mounted(chart: Chart) -> None:
    rendered = chart.render(values=CASES["everything"])
    properties = json.loads(rendered.environment("edge")["HELIOGRAPH_KAFKA_PROPERTIES"])
    mounts = {mount["name"]: mount["mountPath"] for mount in rendered.container("edge")["volumeMounts"]}
    assert properties["ssl.ca.location"] == f"{mounts['kafka-ca']}/ca.crt"
    assert properties["ssl.key.location"] == f"{mounts['kafka-client']}/tls.key"
    assert rendered.settings["HELIOGRAPH_METADATA_REDIS_URL"].endswith(f"?ssl_ca_certs={mounts['redis-ca']}/ca.crt")
    assert rendered.settings["HELIOGRAPH_TOKEN_REDIS_URL"].endswith(
        "?ssl_cert_reqs=required&ssl_ca_certs=/etc/heliograph/redis/ca.crt"
    )


@pytest.mark.parametrize(
    ("sets", "protocol"),
    [
        ((), None),
        (("kafka.tls.enabled=true",), "SSL"),
        (("kafka.sasl.mechanism=PLAIN", "kafka.sasl.existingSecret=s"), "SASL_PLAINTEXT"),
    ],
)
def test_the_protocol_to_kafka_follows_from_tls_and_sasl(
    sets: tuple[str, ...], protocol: str | None, chart: Chart
) -> None:
    rendered = chart.render(*sets)
    given = {**rendered.settings, **rendered.environment("edge")}.get("HELIOGRAPH_KAFKA_PROPERTIES")
    assert (json.loads(given)["security.protocol"] if given else None) == protocol


def test_what_is_given_as_environment_takes_the_charts_place_and_may_be_referred_to(chart: Chart) -> None:
    """A user of its own for a component, say; variables that are there twice are refused by server-side apply."""
    own = "edge.pods.extraEnv"
    sets = (f"{own}[0].name=KAFKA_USERNAME", f"{own}[0].value=edge", f"{own}[1].name=KAFKA_PASSWORD")
    secret = (f"{own}[1].valueFrom.secretKeyRef.name=edge", f"{own}[1].valueFrom.secretKeyRef.key=password")
    rendered = chart.render(*sets, *secret, values=CASES["everything"])
    listed = [entry["name"] for entry in rendered.container("edge")["env"]]
    assert len(set(listed)) == len(listed)
    assert listed.index("KAFKA_PASSWORD") < listed.index("HELIOGRAPH_KAFKA_PROPERTIES"), "which says $(KAFKA_PASSWORD)"
    assert rendered.environment("edge")["KAFKA_USERNAME"] == "edge"
    assert rendered.environment("edge")["KAFKA_PASSWORD"] == {"secretKeyRef": {"name": "edge", "key": "password"}}
    assert rendered.environment("router")["KAFKA_PASSWORD"] == {
        "secretKeyRef": {"name": "kafka-user", "key": "password"}
    }


# ---- what pods may do ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_no_pod_may_more_than_the_restricted_profile(case: str, chart: Chart) -> None:
    rendered = chart.render(values=CASES[case])
    workloads = [*rendered.all("Deployment"), *rendered.all("StatefulSet")]
    pods = [item["spec"]["template"]["spec"] for item in workloads] + [item["spec"] for item in rendered.all("Pod")]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_only_the_operator_has_a_token_for_the_api_server(chart: Chart) -> None:
    rendered = chart.render()
    assert {name for name in SERVICES if rendered.pod(name)["automountServiceAccountToken"]} == {"operator"}
    assert all(rendered.pod(name)["enableServiceLinks"] is False for name in SERVICES)


def test_the_operator_may_what_it_needs_and_no_more(chart: Chart) -> None:
    rules = chart.render().get("ClusterRole", "-operator")["rules"]
    for rule in rules:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
    may = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert {("tenants", "patch"), ("tenants/status", "patch"), ("pods", "patch"), ("deployments/scale", "patch")} <= may
    assert ("deployments", "patch") not in may, "replicas are all of a Deployment that is its to write"
    assert {verb for _, verb in may} <= {"get", "list", "watch", "create", "patch"}, "it deletes nothing"


def test_an_operator_of_some_namespaces_has_a_role_in_each_and_none_besides(chart: Chart) -> None:
    rendered = chart.render("operator.namespaceDeletion=false", values=CASES["everything"])
    assert rendered.names("ClusterRole") == {"messaging-hg-heliograph-crds"}, "that of the job before upgrades"
    assert rendered.all("ValidatingAdmissionPolicy") == []
    assert [role["metadata"]["namespace"] for role in rendered.all("Role")] == ["messaging", "agents"]
    for binding in rendered.all("RoleBinding"):
        assert binding["subjects"][0]["namespace"] == "messaging"
    assert rendered.environment("operator")["HELIOGRAPH_WATCH_NAMESPACES"] == "messaging,agents"


def test_what_may_let_tenants_of_deleted_namespaces_go_may_nothing_else_and_not_elsewhere(chart: Chart) -> None:
    rendered = chart.render(values=CASES["everything"])
    (rule,) = rendered.get("ClusterRole", "-operator")["rules"]
    assert rule["resources"] == ["tenants"]
    assert set(rule["verbs"]) == {"get", "list", "watch", "patch"}
    policy = rendered.all("ValidatingAdmissionPolicy")[0]["spec"]
    assert policy["validations"][0]["expression"] == "request.namespace in ['messaging', 'agents']"
    account = f"system:serviceaccount:messaging:{rendered.pod('operator')['serviceAccountName']}"
    assert account in policy["matchConditions"][0]["expression"]
    everywhere = chart.render("operator.namespaceDeletion=true")
    assert everywhere.all("ValidatingAdmissionPolicy") == [], "its ClusterRole has that already"
    assert len(everywhere.get("ClusterRole", "-operator")["rules"]) > 1


def test_the_charts_own_fleet_is_its_operators_whatever_labels_that_wants(chart: Chart) -> None:
    rendered = chart.render(values=CASES["everything"])
    assert rendered.environment("operator")["HELIOGRAPH_WATCH_LABELS"] == "environment=staging"
    assert rendered.all("EdgeFleet")[0]["metadata"]["labels"]["environment"] == "staging"
    taken = chart.render("operator.matchLabels.app\\.kubernetes\\.io/part-of=more")
    assert taken.all("EdgeFleet")[0]["metadata"]["labels"]["app.kubernetes.io/part-of"] == "more"


def test_the_job_that_applies_definitions_runs_before_upgrades_only_and_can_be_left_out(chart: Chart) -> None:
    rendered = chart.render()
    for kind in ("Job", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"):
        annotations = rendered.get(kind, "-crds")["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-upgrade"
        assert "hook-succeeded" in annotations["helm.sh/hook-delete-policy"], "its rights go with it"
    names = {name for rule in rendered.get("ClusterRole", "-crds")["rules"] for name in rule.get("resourceNames", [])}
    assert names == {"tenants.heliograph.dev", "edgefleets.heliograph.dev"}
    assert chart.render("crds.upgrade=false").all("Job") == []


# ---- ways in ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Ingress", "HTTPRoute"])
def test_the_world_gets_what_is_for_clients_and_no_probes(kind: str, chart: Chart) -> None:
    spec = chart.render(values=CASES["everything"]).all(kind)[0]["spec"]
    if kind == "Ingress":
        found = {p["path"]: p["backend"]["service"]["name"] for p in spec["rules"][0]["http"]["paths"]}
    else:
        found = {r["matches"][0]["path"]["value"]: r["backendRefs"][0]["name"] for r in spec["rules"]}
        assert all(rule["timeouts"] == {"request": "0s", "backendRequest": "0s"} for rule in spec["rules"])
    assert found == {
        "/v1/history": "hg-heliograph-replay",
        "/v1/export": "hg-heliograph-replay",
        "/v1/presence": "hg-heliograph-registry",
        "/v1": "hg-heliograph-edge",
    }


def test_what_belongs_to_pods_adds_up_and_a_component_wins(chart: Chart) -> None:
    template = chart.render(values=CASES["everything"]).get("Deployment", "-edge")["spec"]["template"]
    assert {"team": "messaging", "tier": "front"}.items() <= template["metadata"]["labels"].items()
    assert [one["topologyKey"] for one in template["spec"]["topologySpreadConstraints"]] == ["zone"]
    other = chart.render(values=CASES["everything"]).pod("replay")
    assert [one["topologyKey"] for one in other["topologySpreadConstraints"]] == [
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    ]


def test_kafka_and_redis_are_there_only_in_the_dev_profile(chart: Chart) -> None:
    assert chart.render().all("StatefulSet") == []
    assert chart.render(values=DEV_VALUES).names("StatefulSet") == {"kafka", "redis-live", "redis-metadata"}


@pytest.mark.parametrize("kind", ["PodMonitor", "ServiceMonitor"])
def test_monitoring_is_there_when_it_is_wanted(kind: str, chart: Chart) -> None:
    assert not {"PodMonitor", "ServiceMonitor", "PrometheusRule"} & {item["kind"] for item in chart.render().objects}
    rendered = chart.render(f"monitoring.monitor={kind}", "monitoring.rules.enabled=true")
    assert len(rendered.all(kind)) == len(rendered.all("PrometheusRule")) == 1
    wanted = rendered.all(kind)[0]["spec"]["selector"]["matchLabels"].items()
    if kind == "PodMonitor":
        found = [rendered.get("Deployment", f"-{name}")["spec"]["template"] for name in SERVICES]
        assert all(one["spec"]["containers"][0]["ports"][0]["name"] == "http" for one in found)
    else:
        found = rendered.all("Service")
        assert all(one["spec"]["ports"][0]["name"] == "http" for one in found)
    assert all(wanted <= one["metadata"]["labels"].items() for one in found)


def test_dashboards_are_config_maps_that_grafanas_sidecar_finds(chart: Chart) -> None:
    assert not [item for item in chart.render().all("ConfigMap") if "dashboard" in item["metadata"]["name"]]
    for case, label in (((), "grafana_dashboard"), (("monitoring.dashboards.labels.mine=yes",), "mine")):
        rendered = chart.render("monitoring.dashboards.enabled=true", *case)
        made = rendered.get("ConfigMap", "-dashboard-overview")
        assert label in made["metadata"]["labels"]
        written = (CHART / "files" / "dashboards" / "overview.json").read_text(encoding="utf-8")
        assert json.loads(made["data"]["heliograph-overview.json"]) == json.loads(written)


def test_the_alerts_are_those_that_are_tested(chart: Chart) -> None:
    sets = ("monitoring.rules.enabled=true", f"monitoring.runbookUrl={RUNBOOKS}")
    assert chart.render(*sets).all("PrometheusRule")[0]["spec"]["groups"] == groups()
    without = chart.render(*sets, "operator.enabled=false").all("PrometheusRule")[0]["spec"]["groups"]
    assert without == [group for group in groups() if not group["name"].endswith("-operator")]


def test_alerts_carry_their_runbooks_where_it_is_not_said_where_those_are_to_be_read(chart: Chart) -> None:
    rules = chart.render("monitoring.rules.enabled=true").all("PrometheusRule")[0]
    assert rules["spec"]["groups"] == groups(runbooks="")


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("edge.replicas=3",), "additional properties 'replicas' not allowed"),
        (("routr.replicas=3",), "additional properties 'routr' not allowed"),
        (("router.replicas=many",), "got string, want integer"),
        (("edge.service.type=Nodeport",), "'ClusterIP', 'NodePort', 'LoadBalancer'"),
        (("kafka.bootstrapServers=",), "kafka.bootstrapServers is empty: give the brokers as host:port"),
        (("redis.live.url=",), "redis.live has neither url nor existingSecret.name"),
        (("redis.live.url=redis://user:secret@redis:6379/0",), "put the whole URL into a Secret"),
        (("redis.live.url=redis+sentinel://s1/main?sentinel_password=secret",), "put the whole URL into a Secret"),
        (("redis.live.url=redis:6379",), r"pattern '^(rediss?(\\+sentinel|\\+cluster)?://"),
        (("redis.metadata.url=redis+sentinal://s1/main",), r"pattern '^(rediss?(\\+sentinel|\\+cluster)?://"),
        ((r"redis.token.url=redis://one\,two",), "several hosts are sentinels (redis+sentinel://) or nodes"),
        ((r"redis.metadata.url=redis+sentinel://s1\,s2",), "the name is what the sentinels monitor the primary by"),
        (("redis.live.url=redis+cluster://n1/1",), "a Redis Cluster has only database 0"),
        (("redis.live.existingSecret.name=a",), "redis.live has both url and existingSecret.name"),
        (("kafka.sasl.mechanism=PLAIN",), "kafka.sasl.existingSecret is empty"),
        (("kafka.sasl.existingSecret=a",), "kafka.sasl.mechanism is empty"),
        (("kafka.tls.caSecret.name=a",), "kafka.tls.enabled is false: nothing would be encrypted"),
        ((r"kafka.properties.sasl\.password=a",), "kafka.properties.sasl.password would be in a ConfigMap"),
        ((r"kafka.properties.security\.protocol=SSL",), "is set by the chart, from kafka.bootstrapServers, kafka.tls"),
        (("edge.fleet.min=5", "edge.fleet.max=2"), "edge.fleet.min is 5 and edge.fleet.max is 2"),
        (("edge.fleet.spec.targetConnection=5",), "additional properties 'targetConnection' not allowed"),
        (("edge.fleet.spec.min=2",), "edge.fleet.spec.min is set by the chart"),
        (("edge.drain.noticeSeconds=90",), "nothing is left to drain in"),
        (("router.settings.port=1",), "router.settings.port is set by the chart"),
        (("settings.LogLevel=debug",), "settings are named in lower case"),
        (("ingress.enabled=true",), "ingress.host is empty"),
        (("httpRoute.enabled=true",), "httpRoute.parentRefs is empty"),
        (("networkPolicy.egress.enabled=true",), "or pods could reach neither"),
    ],
)
def test_what_cannot_work_is_refused_with_what_would_be_right(sets: tuple[str, ...], said: str, chart: Chart) -> None:
    assert said in chart.refusal(*sets)


def test_the_dev_profile_refuses_nothing_of_its_own(chart: Chart) -> None:
    values = yaml.safe_load(DEV_VALUES.read_text(encoding="utf-8"))
    assert values["dev"] == {"enabled": True}
    assert chart.render(values=DEV_VALUES).objects
