"""docs/install.md, typed on a cluster from its first command to its last, as somebody new would."""

import os
import re
import sys
import time
from pathlib import Path

from tests.kubernetes.cluster import ROOT, Cluster, run
from tests.kubernetes.images import Images
from tests.kubernetes.installation import Namespace
from tests.local.papers import blocks, commands

from heliograph.local.ports import LOOPBACK, free_port

PAGE = ROOT / "docs" / "install.md"
TYPED_TIMEOUT_S = 400.0
"""Some wait for pods."""


def test_its_commands_do_what_they_say(newest_helm: Cluster, images: Images, tmp_path: Path) -> None:
    """Typed in order into one shell, in a namespace of another name, with this checkout's images.

    The operator is kept to that namespace: what is in others is not its own on a cluster that is shared.
    """
    namespace = Namespace(newest_helm, "messaging")
    (tenant,) = (block for block in blocks(PAGE, "yaml") if "kind: Tenant" in block.text)
    (tmp_path / "first.yaml").write_text(tenant.text, encoding="utf-8")
    (tmp_path / "charts").symlink_to(ROOT / "charts")
    settings = f"image.registry={images.registry},image.tag={images.tag},operator.namespaces={{{namespace.name}}}"
    helm = (
        f'case "$1" in install|upgrade) set -- "$@" --set "{settings}" ;; esac\nexec {newest_helm.program("helm")} "$@"'
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), newest_helm.env["PATH"]])
    for name, does in (("helm", helm), ("uv", 'shift\nexec "$@"')):  # `uv run` is this test's own environment
        program(tmp_path / "bin" / name, does)
    shown = [command for block in blocks(PAGE, "text") for command in commands(block)]
    typed = [command for command in shown if "docker build" not in command]
    assert len(typed) == 16
    port = str(free_port())
    script = "\n".join(["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT", *typed])
    script = re.sub(r"\bmessaging\b", namespace.name, script).replace("8080", port)
    try:
        said = run(
            ["bash", "-c", script],
            env={**newest_helm.env, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{path}", "NO_PROXY": LOOPBACK},
            timeout_s=TYPED_TIMEOUT_S,
            directory=tmp_path,
        )
        assert '{"text": "hello"}' in said, "which `tail` prints"
        left = "app.kubernetes.io/component,app.kubernetes.io/component!=test"  # whose log is for who reads it
        deadline = time.monotonic() + 90
        while namespace.get("pods", "-l", left)["items"]:
            assert time.monotonic() < deadline, namespace.diagnosis()
            time.sleep(0.5)
    finally:
        namespace.remove()


def program(path: Path, does: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{does}\n", encoding="utf-8")
    path.chmod(0o755)
