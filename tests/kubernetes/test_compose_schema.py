"""The compose file fits the Compose Specification's own schema, which comes with its module, through Go."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.kubernetes.cluster import Cluster, run

from heliograph.local.compose import FILE

MODULE = "github.com/compose-spec/compose-go/v2@v2.4.0"
DOWNLOAD_TIMEOUT_S = 300.0
DOCUMENT = yaml.safe_load(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def schema(cluster: Cluster) -> Any:
    if cluster.script is None:
        pytest.skip("Compose's schema comes through Go, which is asked for only where the cluster script runs")
    said = run(["go", "mod", "download", "-json", MODULE], env=cluster.env, timeout_s=DOWNLOAD_TIMEOUT_S)
    return json.loads((Path(json.loads(said)["Dir"]) / "schema" / "compose-spec.json").read_text(encoding="utf-8"))


def test_the_compose_file_fits_its_schema(schema: Any) -> None:
    jsonschema.validate(DOCUMENT, schema)


def test_a_mistake_in_it_would_be_seen(schema: Any) -> None:
    edge = {**DOCUMENT["services"]["edge"], "readonly": True}
    with pytest.raises(jsonschema.ValidationError, match="readonly"):
        jsonschema.validate({**DOCUMENT, "services": {**DOCUMENT["services"], "edge": edge}}, schema)
