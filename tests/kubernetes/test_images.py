"""The images: small, alone able to run, and the same when they are built again."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.kubernetes import images as making
from tests.kubernetes.cluster import ROOT, Cluster, run
from tests.kubernetes.images import SERVICES, Images

DOCKERFILE = (ROOT / making.DOCKERFILE).read_text(encoding="utf-8")
BASE = "docker.io/library/python:3.11-slim-bookworm"
ADDED_MOST_BYTES = 160 * 1024 * 1024
"""On top of the base: dependencies and their bytecode are 90 to 110 MB."""


@pytest.fixture(scope="module")
def here(cluster: Cluster, images: Images) -> Images:
    """The images as this machine's builder knows them."""
    if cluster.script is None:
        pytest.skip("images were built elsewhere: this machine's builder does not know them")
    return images


def inspect(cluster: Cluster, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        run(["buildah", "inspect", "--type", "image", name], env=cluster.env, timeout_s=60)
    )
    return found


def layers(cluster: Cluster, name: str) -> list[str]:
    """Digests of the layers' content."""
    found: list[str] = inspect(cluster, name)["OCIv1"]["rootfs"]["diff_ids"]
    return found


def size(cluster: Cluster, name: str) -> int:
    shown = run(["buildah", "images", "--json", name], env=cluster.env, timeout_s=60)
    text = str(json.loads(shown)[0]["size"])
    number, unit = text.split()
    return int(float(number) * {"KB": 1e3, "MB": 1e6, "GB": 1e9}[unit])


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_runs_as_nobody_and_says_what_it_is(service: str, cluster: Cluster, here: Images) -> None:
    config = inspect(cluster, here.name(service))["OCIv1"]["config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["/opt/heliograph/bin/service"]
    assert "Healthcheck" not in config
    assert "USER=heliograph" in config["Env"], "kopf, for one, asks who it is, and 65532 has no name"
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"heliograph-{service}"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.base.name"] == BASE


def test_services_share_all_layers_but_their_own(cluster: Cluster, here: Images) -> None:
    every = [layers(cluster, here.name(service)) for service in SERVICES]
    assert len({tuple(one[:-1]) for one in every}) == 1
    assert len({one[-1] for one in every}) == len(SERVICES)


def test_an_image_is_small(cluster: Cluster, here: Images) -> None:
    base = size(cluster, BASE)
    for service in SERVICES:
        assert size(cluster, here.name(service)) - base < ADDED_MOST_BYTES, service


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_no_tools_and_no_caches(service: str, cluster: Cluster, here: Images) -> None:
    container = run(["buildah", "from", "--pull-never", here.name(service)], env=cluster.env, timeout_s=60).strip()
    try:
        root = Path(run(["buildah", "mount", container], env=cluster.env, timeout_s=60).strip())
        programs = {path.name for path in (root / "opt/heliograph/bin").iterdir()}
        assert "service" in programs
        assert programs.isdisjoint({"pip", "uv"})
        for tool in ("usr/bin/gcc", "usr/bin/cc", "usr/bin/make", "uv", "src", "checkout"):
            assert not (root / tool).exists(), tool
        assert not (root / "root/.cache").exists()
        modules = list((root / "opt/heliograph/lib").rglob("heliograph/**/*.py"))
        assert modules
        compiled = {path.parent.parent / (path.name.split(".")[0] + ".py") for path in _bytecode(root)}
        assert compiled.issuperset(modules)
    finally:
        run(["buildah", "rm", container], env=cluster.env, timeout_s=60)


def _bytecode(root: Path) -> list[Path]:
    """Compiled files; each is one that Python takes without a look at its source (PEP 552: flags 0b01)."""
    found = list((root / "opt/heliograph/lib").rglob("*.pyc"))
    assert all(path.read_bytes()[4:8] == b"\x01\0\0\0" for path in found)
    return found


def test_two_builds_of_the_same_sources_have_equal_layers(cluster: Cluster, here: Images) -> None:
    again = "localhost/heliograph/again"
    making.build(cluster, "registry", again, ROOT, "--no-cache")
    try:
        assert layers(cluster, again) == layers(cluster, here.name("registry"))
    finally:
        run(["buildah", "rmi", again], env=cluster.env, timeout_s=60)


def test_the_base_is_pinned_by_tag_and_can_be_by_digest() -> None:
    assert f"ARG PYTHON_IMAGE={BASE}\nARG PYTHON_DIGEST=\n" in DOCKERFILE
    assert "FROM ${PYTHON_IMAGE}${PYTHON_DIGEST:+@${PYTHON_DIGEST}} AS python" in DOCKERFILE
    used = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)[1:]
    assert set(used) <= {"python", "dependencies"}


def test_images_are_made_with_the_version_of_uv_that_the_checkout_uses() -> None:
    wanted = re.findall(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"^ARG UV_VERSION=(\S+)$", DOCKERFILE, re.MULTILINE) == wanted


def test_what_is_hashed_into_a_tag_is_what_the_builder_sees() -> None:
    """Whatever .dockerignore lets through counts, so that a change never runs the image of before."""
    seen = {path.relative_to(ROOT).parts[0] for path in making.ingredients()}
    allowed = set(re.findall(r"^!([^/\n]+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert seen == allowed
