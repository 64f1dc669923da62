"""A service whose wall clock is the test's: libfaketime, preloaded. Its monotonic clock stays."""

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


def library() -> Path:
    """Where libfaketime is; installed from Debian where it is absent and we may."""
    install_package("libfaketime", lambda: _found() is not None)
    found = _found()
    if found is None:
        raise CannotProvideError(f"{LIBRARY} is in none of {', '.join(PLACES)} (Debian: apt-get install libfaketime)")
    return found


def with_a_clock(rig: FaultRig) -> Conditions:
    """For one service; `clock_step` sets it."""
    set_clock(rig, 0.0)
    return Conditions(
        environment={
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(rig.clock_file),
            "FAKETIME_CACHE_DURATION": str(LOOK_AGAIN_S),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    )


def _found() -> Path | None:
    return next((path for place in PLACES for path in Path("/").glob(f"{place[1:]}/{LIBRARY}")), None)
