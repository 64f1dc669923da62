"""Helm 4 beside the cluster's own Helm 3: the chart is for both.

Built through Go modules, once on a machine; or given: HELIOGRAPH_HELM4 names the folder that holds it as `helm`.
"""

import os
import shutil
from pathlib import Path

from tests.kubernetes.cluster import Cluster, run

from heliograph.local.cache import cache_dir, file_lock

VERSION = "v4.3.1"
VARIABLE = "HELIOGRAPH_HELM4"
BUILD_TIMEOUT_S = 800.0
"""Two to five minutes of two cores where nothing of it was ever compiled."""


class NoHelm4Error(Exception):
    """It is not at hand, and what to do about it."""


def folder(cluster: Cluster) -> Path:
    """Where Helm 4 is as `helm`; made if it has to be."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    place = cache_dir() / f"helm-{VERSION}"
    with file_lock(place.with_suffix(".lock")):
        if not (place / "helm").exists():
            if shutil.which("go") is None:
                raise NoHelm4Error(f"no Go to build Helm 4 with: say {VARIABLE}=FOLDER that holds it as `helm`")
            env = {**cluster.env, "GOBIN": str(place), "CGO_ENABLED": "0"}
            command = ["go", "install", "-ldflags", "-s -w", f"helm.sh/helm/v4/cmd/helm@{VERSION}"]
            run(command, env=env, timeout_s=BUILD_TIMEOUT_S)
    return place
