"""`python -m heliograph.edge`, `heliograph-edge`."""

from typing import NoReturn

from heliograph.edge.bootstrap import VERSION, build
from heliograph.edge.settings import EdgeSettings
from heliograph.service import lifecycle


def main() -> NoReturn:
    """Run the edge until a signal ends it."""
    lifecycle.main(
        EdgeSettings,
        service="edge",
        version=VERSION,
        summary="The WebSocket and HTTP front: publishes to the live path and the log, delivers to subscribers.",
        build=build,
    )


if __name__ == "__main__":
    main()
