"""A cluster for tests: whichever KUBECONFIG names, else the one that the cluster script starts on this machine.

Everything goes through `kubectl` and `helm`, as people do it. Nothing here ever ends a cluster: others may be using it.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from heliograph.local.cache import cache_dir, file_lock

ROOT = Path(__file__).parents[2]

SCRIPT_VARIABLE = "HELIOGRAPH_CLUSTER"
"""Path of the script that starts a cluster on this machine and loads images into it."""
SCRIPT_DEFAULT = ROOT.parent / "shared" / "cluster" / "cluster"
UP_TIMEOUT_S = 1800.0
"""The first time on a machine, Kubernetes itself is built: 7 minutes, more where others want the cores too."""
CALL_TIMEOUT_S = 120.0
NODES = "2"
"""Of a cluster that is started here: one of them dies in a test."""
NODE_ATTEMPTS = 5
"""On a busy machine the script at times fails to add an address that a node has, or begins a kubelet before its runtime
can answer, and that kubelet ends."""
NODE_READY_S = 40.0
DIES = "heliograph.dev/dies"
"""Taint of the node that tests drain and kill, where there are several: what does not tolerate it stays off it."""


class NoClusterError(Exception):
    """There is none, and what to do about it."""


class CommandFailedError(Exception):
    """A command that should have worked; the message has what it said."""


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    stdin: str | None = None,
    timeout_s: float,
    directory: Path = ROOT,
) -> str:
    """Standard output; CommandFailedError with the end of what was said where the command fails."""
    done = subprocess.run(
        command, env=env, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=directory
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-4000:]
        raise CommandFailedError(f"{' '.join(command)[:400]}: status {done.returncode}: {said}")
    return done.stdout


def script() -> Path | None:
    """The script that starts clusters here, where it is at hand and can work."""
    given = os.environ.get(SCRIPT_VARIABLE)
    path = Path(given) if given else SCRIPT_DEFAULT
    usable = path.exists() and os.geteuid() == 0 and shutil.which("go") is not None and shutil.which("mvn") is not None
    return path if usable else None


def missing() -> str | None:
    """Why there can be no cluster here; None where there can."""
    if os.environ.get("KUBECONFIG"):
        return None if shutil.which("kubectl") else "KUBECONFIG is set, but kubectl is not on PATH"
    if script() is not None:
        return None
    return (
        f"no KUBECONFIG, and no cluster script that root can run with Go and Maven at {SCRIPT_DEFAULT} "
        f"or where {SCRIPT_VARIABLE} says"
    )


@dataclass(frozen=True)
class Cluster:
    """One cluster. `script`: where it is one of this machine, whose nodes take images from the local store."""

    kubeconfig: str
    script: Path | None
    env: Mapping[str, str]

    @classmethod
    def find(cls) -> "Cluster":
        """The one at hand, started where it has to be; NoClusterError where there is none."""
        why = missing()
        if why is not None:
            raise NoClusterError(why)
        env, starter = dict(os.environ), script()
        given = env.get("KUBECONFIG")
        if starter is not None:
            ours = run([str(starter), "kubeconfig"], env=env, timeout_s=CALL_TIMEOUT_S).strip()
            binaries = run([str(starter), "path"], env=env, timeout_s=CALL_TIMEOUT_S).strip()
            env["PATH"] = os.pathsep.join([env["PATH"], binaries])
            if given is None or Path(given) == Path(ours):
                with file_lock(cache_dir() / "cluster.lock"):  # processes side by side start one between them
                    run([str(starter), "up", NODES], env=env, timeout_s=UP_TIMEOUT_S)
                env["KUBECONFIG"] = ours
                found = cls(ours, starter, env)
                found._keep_clear()
                return found
        assert given is not None
        return cls(given, None, env)

    def with_programs(self, directory: Path) -> "Cluster":
        """The same cluster, for programs of this folder before those of the same name on PATH."""
        return replace(self, env={**self.env, "PATH": os.pathsep.join([str(directory), self.env["PATH"]])})

    def program(self, name: str) -> str:
        """Where it is."""
        return shutil.which(name, path=self.env["PATH"]) or name

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = CALL_TIMEOUT_S) -> str:
        return run(["kubectl", *arguments], env=self.env, stdin=stdin, timeout_s=timeout_s)

    def get(self, *arguments: str) -> Any:
        """What `kubectl get … -o json` answers."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def helm(self, *arguments: str, timeout_s: float = CALL_TIMEOUT_S) -> str:
        return run(["helm", *arguments], env=self.env, timeout_s=timeout_s)

    def node_address(self) -> str:
        """Where NodePorts can be reached."""
        nodes = self.get("nodes")["items"]
        ready = [node for node in nodes if {"type": "Ready", "status": "True"}.items() <= _condition(node).items()]
        addresses = (ready or nodes)[0]["status"]["addresses"]
        return next(str(entry["address"]) for entry in addresses if entry["type"] == "InternalIP")

    # ---- the node that may die ---------------------------------------------------------------------------------------

    def mortal_node(self) -> str | None:
        """The last of several nodes that the script can end and begin again; None where there is none such."""
        names = sorted(node["metadata"]["name"] for node in self.get("nodes")["items"])
        return names[-1] if self.script is not None and len(names) > 1 else None

    def stop_node(self, name: str) -> None:
        """It dies at once, with its containers."""
        self._script("stop-node", name)

    def start_node(self, name: str) -> None:
        """Bring it back, and return once it is ready."""
        ready = ["wait", "--for=condition=Ready", f"node/{name}", f"--timeout={NODE_READY_S:g}s"]
        for attempt in range(1, NODE_ATTEMPTS + 1):
            started = False
            try:
                self._script("start-node", name)
                started = True
                self.kubectl(*ready)
            except CommandFailedError:
                if attempt == NODE_ATTEMPTS:
                    raise
                if started:
                    self.stop_node(name)
            else:
                return

    def _script(self, *arguments: str) -> None:
        assert self.script is not None
        run([str(self.script), *arguments], env=self.env, timeout_s=CALL_TIMEOUT_S)

    def _keep_clear(self) -> None:
        """The node that may die is for those who say that they can stand it: others may be using the same cluster."""
        mortal = self.mortal_node()
        if mortal is not None:
            self.kubectl("taint", "nodes", mortal, f"{DIES}=tests:NoExecute", "--overwrite")


def _condition(node: Any) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in node["status"]["conditions"] if entry["type"] == "Ready")
    return found
