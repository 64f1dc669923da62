"""A service whose wall clock is the test's: libfaketime, preloaded. Its monotonic clock stays."""

import shutil
import subprocess
from pathlib import Path

from tests.faults.faults import set_clock
from tests.faults.rig import FaultRig
from tests.faults.scenario import Conditions

from heliograph.local.debian import install_package
from heliograph.local.errors import CannotProvideError

LIBRARY = "libfaketime.so.1"
PLACES = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/local/lib/faketime")
LOOK_AGAIN_S = 1
"""How soon a service sees that its clock was set."""
SHIM = Path(__file__).with_name("cnd_timedwait.c")
"""What libfaketime leaves out; it says why."""


def preloads(directory: Path) -> str:
    """What is preloaded, made in this directory where need be; installed from Debian where it is absent and we may."""
    install_package("libfaketime", lambda: _found() is not None)
    found = _found()
    if found is None:
        raise CannotProvideError(f"{LIBRARY} is in none of {', '.join(PLACES)} (Debian: apt-get install libfaketime)")
    return f"{_shim(directory)} {found}"


def with_a_clock(rig: FaultRig) -> Conditions:
    """For one service; `clock_step` sets it."""
    set_clock(rig, 0.0)
    return Conditions(
        environment={
            "LD_PRELOAD": preloads(rig.directory),
            "FAKETIME_TIMESTAMP_FILE": str(rig.clock_file),
            "FAKETIME_CACHE_DURATION": str(LOOK_AGAIN_S),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    )


def _shim(directory: Path) -> Path:
    made = directory / SHIM.with_suffix(".so").name
    if not made.exists():
        install_package("gcc", lambda: shutil.which("gcc") is not None)
        install_package("libc6-dev", lambda: Path("/usr/include/threads.h").exists())
        compiler = shutil.which("gcc")
        if compiler is None:
            raise CannotProvideError(f"{SHIM.name} needs a C compiler (Debian: apt-get install gcc libc6-dev)")
        done = subprocess.run(
            [compiler, "-shared", "-fPIC", "-O2", "-o", made, SHIM], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise CannotProvideError(f"{SHIM.name} was not compiled:\n{done.stderr}")
    return made


def _found() -> Path | None:
    return next((path for place in PLACES for path in Path("/").glob(f"{place[1:]}/{LIBRARY}")), None)
