"""`heliograph`, and `python -m heliograph.cli`."""

import os
import sys

from heliograph.cli.app import app
from heliograph.cli.exit_codes import ExitCode


def main() -> None:
    """Run the command line. A reader that went away (`| head`) is no error."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)


if __name__ == "__main__":
    main()
