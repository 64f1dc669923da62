"""Keep a server for as long as somebody else lives: `python -m heliograph.local.keeper OWNER_PID DIRECTORY`.

pytest-xdist's workers share one Kafka, but none of them may own it: the one that started it ends before the others
do. The keeper owns it on behalf of the run's controller, and ends it when the controller ends, however that happened.
"""

import os
import select
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

from heliograph.local.identity import POLL_S, ProcessIdentity
from heliograph.local.providers import throwaway_kafka


class _EndedError(Exception):
    """SIGTERM arrived."""


def _end(*_: object) -> None:
    raise _EndedError


def wait_for_end_of(owner: ProcessIdentity) -> None:
    """Return when the process is gone; without polling where the kernel can tell (pidfd_open(2))."""
    if sys.platform == "linux":
        try:
            descriptor = os.pidfd_open(owner.pid)
        except OSError:
            return
        if owner.alive():
            select.select([descriptor], [], [])
        os.close(descriptor)
        return
    while not owner.wait_gone(POLL_S * 50):
        pass


def main() -> None:
    owner = ProcessIdentity.of(int(sys.argv[1]))
    if owner is None:
        sys.exit("the owner is gone")
    signal.signal(signal.SIGTERM, _end)
    directory = Path(sys.argv[2])
    with suppress(_EndedError), throwaway_kafka(directory) as server:
        ready = directory / "address.partial"
        ready.write_text(server.bootstrap_servers, encoding="utf-8")
        ready.rename(directory / "address")  # readers see all of it or nothing
        wait_for_end_of(owner)
    shutil.rmtree(directory, ignore_errors=True)  # the owner may have been killed, and then nobody else does


if __name__ == "__main__":
    main()
