"""`python -m heliograph.router`, `heliograph-router`."""

from typing import NoReturn

from heliograph.router.bootstrap import VERSION, build
from heliograph.router.settings import RouterSettings
from heliograph.service import lifecycle


def main() -> NoReturn:
    """Run the router until a signal ends it."""
    lifecycle.main(
        RouterSettings,
        service="router",
        version=VERSION,
        summary="Reads the log and reconciles it with the live path: confirms, indexes, writes what is missing.",
        build=build,
    )


if __name__ == "__main__":
    main()
