"""What continuous integration does about a cluster: .ci/run itself, with programs that only write down their calls."""

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "run"
TESTS_ON_A_CLUSTER = "make test-kubernetes"
PROGRAMS = ("make", "apt-get", "curl", "redis-server", "java", "mvn", "go", "uv", "kubectl", "python3")
TWICE = ["cluster up 2", "cluster down"] * 2
CALLED = """#!/bin/bash
echo "$(basename "$0") $1${2:+ $2}" | sed 's/ ARGS=.*//' >>"$CALLS"
[[ "$(basename "$0") $1" != @($FAILING) ]]
"""


@dataclass
class Machine:
    """One with a checkout, and everything that the script asks for."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    said: str = ""

    def __post_init__(self) -> None:
        script = self.directory / "checkout" / ".ci" / "run"
        script.parent.mkdir(parents=True)
        shutil.copy(SCRIPT, script)
        for name in PROGRAMS:
            self.program(self.directory / "bin" / name)
        root = self.program(self.directory / "bin" / "id")
        root.write_text("#!/bin/bash\necho 0\n", encoding="utf-8")

    def program(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CALLED, encoding="utf-8")
        path.chmod(0o755)
        return path

    def run(self, *, failing: str = "kubectl*") -> int:
        """The script's status. `failing`: shell patterns of calls that fail; the default: no cluster is up yet."""
        known = {name: value for name, value in os.environ.items() if name not in {"KUBECONFIG", "HELIOGRAPH_CLUSTER"}}
        path = os.pathsep.join([str(self.directory / "bin"), os.environ["PATH"]])
        calls = {"CALLS": str(self.directory / "calls"), "FAILING": failing, "PATH": path}
        done = subprocess.run(
            [self.directory / "checkout" / ".ci" / "run"],
            env={**known, **calls, **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.said = done.stdout + done.stderr
        return done.returncode

    @property
    def calls(self) -> list[str]:
        lines = (self.directory / "calls").read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line.split()[0] in {"make", "cluster"} and line != "cluster kubeconfig"]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def beside(machine: Machine) -> Path:
    """A script that starts clusters, beside the checkout."""
    return machine.program(machine.directory / "shared" / "cluster" / "cluster")


def test_a_cluster_is_started_by_the_script_beside_the_checkout_and_ends_before_the_other_tests(
    machine: Machine, beside: Path
) -> None:
    assert machine.run() == 0
    assert machine.calls == ["make lint", "cluster up 2", TESTS_ON_A_CLUSTER, "cluster down", "make test"]


def test_a_cluster_ends_also_when_its_tests_fail_and_then_the_run_has_failed(machine: Machine, beside: Path) -> None:
    assert machine.run(failing="kubectl*|make test-kubernetes") != 0
    assert machine.calls == ["make lint", "cluster up 2", TESTS_ON_A_CLUSTER, "cluster down"]


def test_a_found_script_that_cannot_start_one_is_told_plainly_and_the_other_tests_run(
    machine: Machine, beside: Path
) -> None:
    assert machine.run(failing="kubectl*|cluster up") == 0
    assert machine.calls == ["make lint", *TWICE, "make test"]
    assert "WARNING: tests/kubernetes are NOT run" in machine.said


def test_a_named_script_that_cannot_start_one_fails_the_run(machine: Machine, tmp_path: Path) -> None:
    machine.environment["HELIOGRAPH_CLUSTER"] = str(machine.program(tmp_path / "elsewhere" / "cluster"))
    assert machine.run(failing="kubectl*|cluster up") == 1
    assert machine.calls == ["make lint", *TWICE]
    assert "error: the cluster that HELIOGRAPH_CLUSTER=" in machine.said


def test_a_cluster_that_somebody_has_up_stays_up(machine: Machine, beside: Path) -> None:
    assert machine.run(failing="nothing") == 0
    assert machine.calls == ["make lint", TESTS_ON_A_CLUSTER, "make test"]


def test_the_cluster_of_kubeconfig_is_used_as_it_is(machine: Machine, beside: Path) -> None:
    machine.environment["KUBECONFIG"] = "/some/kubeconfig"
    assert machine.run() == 0
    assert machine.calls == ["make lint", TESTS_ON_A_CLUSTER, "make test"]


def test_a_machine_without_any_says_so(machine: Machine) -> None:
    assert machine.run() == 0
    assert machine.calls == ["make lint", "make test"]
    assert "tests/kubernetes are not run: neither KUBECONFIG nor HELIOGRAPH_CLUSTER" in machine.said
