"""What docs/operator.md and the example say is so."""

import re
from pathlib import Path
from typing import Any

import yaml
from tests.services.operator.tenant_rig import Rig

from heliograph.operator.bootstrap import compose
from heliograph.operator.kube import PAUSED, SECRETS, TENANTS
from heliograph.operator.settings import OperatorSettings
from heliograph.operator.tenants import keys, look, status
from heliograph.operator.tenants.crd import CONDITIONS
from heliograph.service.health import Liveness, Readiness

ROOT = Path(__file__).parents[3]
PAPER = (ROOT / "docs" / "operator.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "deploy" / "examples" / "kubernetes" / "tenant.yaml"


async def test_the_example_becomes_ready() -> None:
    secret, tenant = yaml.safe_load_all(EXAMPLE.read_text(encoding="utf-8"))
    rig = Rig()
    await rig.kube.create(SECRETS, "team", {**secret, "data": _encoded(secret["stringData"])})
    await rig.kube.create(TENANTS, "team", tenant)
    await rig.look()
    assert rig.condition("Ready")[0] == "True"
    record = await rig.record()
    assert record is not None
    assert (record.topics.log.partitions, record.limits.connections) == (12, 20_000)


def test_every_condition_and_annotation_is_told() -> None:
    assert set(re.findall(r"^\| `([A-Z]\w+)` \|", PAPER, re.MULTILINE)) == set(CONDITIONS)
    told = set(re.findall(r"^\| `(heliograph\.dev/[a-z-]+)=true` \|", PAPER, re.MULTILINE))
    assert told >= {look.UNMANAGED, look.ADOPT, look.FORCE_FINALIZE, PAUSED}


def test_every_reason_that_is_told_is_given() -> None:
    rows = re.findall(r"^\| `[A-Z]\w+` \|[^|]*\|([^|]*)\|", PAPER, re.MULTILINE)
    reasons = {reason for row in rows for reason in re.findall(r"`([A-Z]\w+)`", row)}
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(keys.__file__).parent.glob("*.py"))
    assert len(reasons) > 12
    assert {reason for reason in reasons if f'"{reason}"' not in sources} == set()


async def test_every_metric_that_is_told_is_served() -> None:
    rig = Rig()

    async def nothing() -> None:
        pass

    metrics = rig.metrics
    settings = OperatorSettings(port=0)
    compose(settings, rig.kube, None, [], metrics, Readiness(), Liveness(), nothing, nothing)  # type: ignore[arg-type]
    from heliograph.operator.metrics import FleetMetrics, KubeMetrics

    KubeMetrics(metrics)
    FleetMetrics(metrics)
    served = set(re.findall(r"^# TYPE (\S+)", metrics.render()[0].decode(), re.MULTILINE))
    assert set(re.findall(r"`(heliograph_operator_[a-z_]+)`", PAPER)) - served == set()
    assert status.READY in CONDITIONS


def _encoded(data: dict[str, str]) -> dict[str, Any]:
    import base64

    return {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
