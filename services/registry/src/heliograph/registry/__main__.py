"""`python -m heliograph.registry`, `heliograph-registry`."""

from typing import NoReturn

from heliograph.registry.bootstrap import VERSION, build
from heliograph.registry.settings import RegistrySettings
from heliograph.service import lifecycle


def main() -> NoReturn:
    """Run the registry until a signal ends it."""
    lifecycle.main(
        RegistrySettings,
        service="registry",
        version=VERSION,
        summary="Who is connected where, from the leases and connections that edges write.",
        build=build,
    )


if __name__ == "__main__":
    main()
