"""The version that upgrades begin at: the chart and the images of an older commit.

There is no release yet. Once there is one, its tag belongs here.
"""

import subprocess
import tarfile
from pathlib import Path

from tests.kubernetes.cluster import ROOT, Cluster
from tests.kubernetes.images import REGISTRY, Images, build_missing, loading

COMMIT = "8f1385bb484e64af246b980cf63396eff156a792"
"""The first whose chart, images and operator passed these tests together."""
SERVICES = ("edge", "router", "replay", "registry", "operator")


class NoBaselineError(Exception):
    """Why it can't be had here."""


def provide(cluster: Cluster, directory: Path) -> tuple[Path, Images]:
    """Its chart, under `directory`, and its images on every node. NoBaselineError without history, or a builder."""
    if cluster.script is None:
        raise NoBaselineError("images of an older commit can be built only for the script's own cluster")
    archive = directory / "baseline.tar"
    # The checkout may be another user's: CI's often is.
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "archive", f"--output={archive}", COMMIT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoBaselineError(f"commit {COMMIT} is not to be had from git here: {done.stderr.strip()}")
    sources = directory / "baseline"
    with tarfile.open(archive) as opened:
        opened.extractall(sources, filter="data")
    images = Images(REGISTRY, f"c-{COMMIT[:12]}")
    with loading():
        build_missing(cluster, images, SERVICES, sources)
    return sources / "charts" / "heliograph", images
