"""A cluster for tests: whichever KUBECONFIG names, else the one that the cluster script starts on this machine.

Everything goes through `kubectl` and `helm`, as people do it. Nothing here ever ends a cluster: others may be using it.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

SCRIPT_VARIABLE = "HELIOGRAPH_CLUSTER"
"""Path of the script that starts a cluster on this machine and loads images into it."""
SCRIPT_DEFAULT = ROOT.parent / "shared" / "cluster" / "cluster"
UP_TIMEOUT_S = 1800.0
"""The first time on a machine, Kubernetes itself is built: 7 minutes, more where others want the cores too."""
CALL_TIMEOUT_S = 120.0


class NoClusterError(Exception):
    """There is none, and what to do about it."""


class CommandFailedError(Exception):
    """A command that should have worked; the message has what it said."""


def run(command: Sequence[str], *, env: Mapping[str, str], stdin: str | None = None, timeout_s: float) -> str:
    """Standard output; CommandFailedError with the end of what was said where the command fails."""
    done = subprocess.run(
        command, env=env, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=ROOT
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
                run([str(starter), "up"], env=env, timeout_s=UP_TIMEOUT_S)
                env["KUBECONFIG"] = ours
                return cls(ours, starter, env)
        assert given is not None
        return cls(given, None, env)

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


def _condition(node: Any) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in node["status"]["conditions"] if entry["type"] == "Ready")
    return found
