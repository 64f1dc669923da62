"""`python -m heliograph.replay`, `heliograph-replay`."""

from typing import NoReturn

from heliograph.replay.bootstrap import VERSION, build
from heliograph.replay.settings import ReplaySettings
from heliograph.service import lifecycle


def main() -> NoReturn:
    """Run replay until a signal ends it."""
    lifecycle.main(
        ReplaySettings,
        service="replay",
        version=VERSION,
        summary="History of sessions from the log: over HTTP, and for edges whose subscribers are far behind.",
        build=build,
    )


if __name__ == "__main__":
    main()
