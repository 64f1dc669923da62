"""Secrets as the papers make them: the API server takes them, and they have the keys that the chart looks for."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kubernetes.cluster import ROOT, Cluster
from tests.kubernetes.installation import Namespace
from tests.kubernetes.rendering import Chart

PAPERS = (ROOT / "docs" / "security.md", ROOT / "deploy" / "examples" / "README.md")
COMMANDS = [
    command
    for paper in PAPERS
    for command in re.findall(
        r"^\$ kubectl (.*create secret generic .*)$", paper.read_text(encoding="utf-8"), re.MULTILINE
    )
]
KEYS = {"kafka-ca": {"ca.crt"}, "redis-ca": {"ca.crt"}, "acme-keys": {"jwks"}}
"""By the Secret's name; of users `username` and `password`, of the others of Redis `url`."""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_secret_is_made_as_shown(command: str, namespace: Namespace, tmp_path: Path, cluster: Cluster) -> None:
    words = shlex.split(command.partition(" | ")[0])
    name = words[words.index("generic") + 1]
    for number, word in enumerate(words):
        if word.startswith("--from-file="):
            key, _, file = word.removeprefix("--from-file=").rpartition("=")
            (tmp_path / file).write_text("something", encoding="utf-8")
            words[number] = f"--from-file={key or file}={tmp_path / file}"
    at = words.index("--namespace")
    made = cluster.kubectl(*words[:at], *words[at + 2 :], "--dry-run=client", "-o", "yaml")
    namespace.kubectl("apply", "--dry-run=server", "-f", "-", stdin=made)
    secret: dict[str, Any] = yaml.safe_load(made)
    wanted = KEYS.get(name, {"url"} if "redis" in name else {"username", "password"})
    assert set(secret["data"]) == wanted


def test_those_keys_are_where_the_chart_looks(cluster: Cluster) -> None:
    rendered = Chart(cluster).render(values=ROOT / "deploy" / "examples" / "values" / "production.yaml")
    looked_for: dict[str, set[str]] = {}
    for place in rendered.environment("edge").values():
        if isinstance(place, dict) and "secretKeyRef" in place:
            looked_for.setdefault(place["secretKeyRef"]["name"], set()).add(place["secretKeyRef"]["key"])
    assert looked_for == {
        "heliograph-kafka": {"username", "password"},
        "heliograph-redis-live": {"url"},
        "heliograph-redis-metadata": {"url"},
    }
    for name in ("kafka-ca", "redis-ca"):
        volume = next(one for one in rendered.pod("edge")["volumes"] if one["name"] == name)
        assert volume["secret"]["secretName"] == name
        assert {item["key"] for item in volume["secret"]["items"]} == KEYS[name]
    (mounted,) = (one["mountPath"] for one in rendered.container("edge")["volumeMounts"] if one["name"] == "redis-ca")
    redis = [command for command in COMMANDS if "=url='rediss" in command]
    assert len(redis) == 2
    assert all(f"?ssl_ca_certs={mounted}/ca.crt'" in command for command in redis)
