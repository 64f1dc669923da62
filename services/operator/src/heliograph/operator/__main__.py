"""`python -m heliograph.operator`, `heliograph-operator`."""

from typing import NoReturn

from heliograph.operator.bootstrap import VERSION, build
from heliograph.operator.settings import OperatorSettings
from heliograph.service import lifecycle


def main() -> NoReturn:
    """Run the operator until a signal ends it."""
    lifecycle.main(
        OperatorSettings,
        service="operator",
        version=VERSION,
        summary="Makes tenants and edge fleets what their Kubernetes resources say.",
        build=build,
    )


if __name__ == "__main__":
    main()
