"""The images that tests run: built from this checkout and loaded into the nodes, or given.

A tag is the hash of what goes into an image, so that a second run builds nothing and checkouts side by side never get
each other's. Where the cluster is none of this machine (or has another way to images), they are given:
HELIOGRAPH_TEST_IMAGES=REGISTRY:TAG.
"""

import hashlib
import json
import os
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.kubernetes.cluster import ROOT, Cluster, NoClusterError, run

from heliograph.local.cache import cache_dir, file_lock

GIVEN_VARIABLE = "HELIOGRAPH_TEST_IMAGES"
REGISTRY = "docker.io/heliograph"
SERVICES = ("edge", "router", "replay", "registry", "operator", "cli")
THIRD_PARTY = ("docker.io/library/redis:7-bookworm", "docker.io/apache/kafka:4.1.1")
DOCKERFILE = "deploy/docker/Dockerfile"
EPOCH_S = 1_767_225_600
"""2026-01-01: any fixed time makes equal content an equal image."""
BUILD_TIMEOUT_S = 900.0
NODE_STORES = Path("/run/local-cluster")
"""Where the cluster script has the sockets of its nodes' runtimes."""


@dataclass(frozen=True)
class Images:
    """Where a cluster finds the images: `REGISTRY/SERVICE:TAG`."""

    registry: str
    tag: str

    def name(self, service: str) -> str:
        return f"{self.registry}/{service}:{self.tag}"


def ingredients() -> Iterator[Path]:
    """Every file that an image is made of, as .dockerignore has it."""
    yield ROOT / "uv.lock"
    yield ROOT / "pyproject.toml"
    yield ROOT / "deploy" / "local" / "pyproject.toml"
    yield from sorted((ROOT / "deploy" / "docker").iterdir())
    for room in ("libs", "services"):
        for path in sorted((ROOT / room).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md":
                yield path


def content_tag() -> str:
    digest = hashlib.sha256()
    for path in ingredients():
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return f"t-{digest.hexdigest()[:16]}"


def provide(cluster: Cluster, services: Iterable[str] = SERVICES) -> Images:
    """All images, on every node."""
    given = os.environ.get(GIVEN_VARIABLE)
    if given:
        registry, _, tag = given.rpartition(":")
        return Images(registry, tag)
    if cluster.script is None:
        raise NoClusterError(f"images can't be loaded into this cluster: say {GIVEN_VARIABLE}=REGISTRY:TAG")
    images = Images(REGISTRY, content_tag())
    with loading():
        build_missing(cluster, images, services)
        for name in THIRD_PARTY:
            if not on_every_node(name):
                run([str(cluster.script), "load", name], env=cluster.env, timeout_s=BUILD_TIMEOUT_S)
    return images


def loading() -> AbstractContextManager[None]:
    """One process at a time loads images, and no node may die meanwhile."""
    return file_lock(cache_dir() / "images.lock")


def build_missing(cluster: Cluster, images: Images, services: Iterable[str], sources: Path = ROOT) -> None:
    """Those of these services that some node lacks; within `loading`.

    Other `sources` are built with this checkout's Dockerfile, so that all share one layer of dependencies.
    """
    missing = [service for service in services if not on_every_node(images.name(service))]
    for service in missing:
        build(cluster, service, images.name(service), sources)
    if missing:
        load(cluster, [images.name(service) for service in missing])


def build(cluster: Cluster, service: str, name: str, sources: Path = ROOT, *options: str) -> None:
    """One service's image, in this machine's own store. The base images are there: the script makes them."""
    command = ["buildah", "bud", "--pull-never", "--layers", "--isolation", "chroot", "--network", "host", *options]
    command += ["-v", "/etc/ssl/certs:/etc/ssl/certs:ro", "-f", str(ROOT / DOCKERFILE)]
    command += ["--build-arg", f"SERVICE={service}", "--timestamp", str(EPOCH_S), "-t", name, str(sources)]
    run(command, env=cluster.env, timeout_s=BUILD_TIMEOUT_S)


def load(cluster: Cluster, names: Sequence[str]) -> None:
    """Onto every node, all at once: what they share, most of each, is written and read once and not for each of them.

    As an OCI image layout, whose index says by what names containerd shall know them.
    """
    with TemporaryDirectory(prefix="heliograph-images-") as directory:
        layout, archive = Path(directory) / "layout", Path(directory) / "images.tar"
        for name in names:
            push = ["buildah", "push", "-q", "--compression-level", "1", name, f"oci:{layout}:{name}"]
            run(push, env=cluster.env, timeout_s=BUILD_TIMEOUT_S)
        index = json.loads((layout / "index.json").read_text(encoding="utf-8"))
        for manifest in index["manifests"]:
            known = manifest["annotations"]
            known["io.containerd.image.name"] = known["org.opencontainers.image.ref.name"]
        (layout / "index.json").write_text(json.dumps(index), encoding="utf-8")
        with tarfile.open(archive, "w") as opened:
            for path in sorted(layout.rglob("*")):
                opened.add(path, str(path.relative_to(layout)), recursive=False)
        for socket in sorted(NODE_STORES.glob("node-*.sock")):
            command = ["ctr", "-a", str(socket), "-n", "k8s.io", "images", "import", str(archive)]
            run(command, env=cluster.env, timeout_s=BUILD_TIMEOUT_S)


def on_every_node(name: str) -> bool:
    sockets = sorted(NODE_STORES.glob("node-*.sock"))
    return bool(sockets) and all(name in _names(socket) for socket in sockets)


def _names(socket: Path) -> set[str]:
    done = subprocess.run(
        ["ctr", "-a", str(socket), "-n", "k8s.io", "images", "ls", "-q"], capture_output=True, text=True, check=False
    )
    return set(done.stdout.split())
