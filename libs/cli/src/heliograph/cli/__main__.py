"""`heliograph`, and `python -m heliograph.cli`."""

import sys

from heliograph.cli.app import app
from heliograph.cli.exit_codes import ExitCode


def main() -> None:
    """Run the command line."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    main()
