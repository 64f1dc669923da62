"""`python -m heliograph.protocol.vectors [--write] [--directory DIRECTORY]`."""

import argparse
import sys
from pathlib import Path

from heliograph.protocol.vectors import rendered

DIRECTORY = Path(__file__).parents[4] / "vectors"


def main(arguments: list[str] | None = None) -> int:
    """0: the files are what the code makes (or were written), 1: they differ."""
    parser = argparse.ArgumentParser(prog="python -m heliograph.protocol.vectors", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the files instead of comparing them")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="where the files are (%(default)s)")
    options = parser.parse_args(arguments)
    directory: Path = options.directory
    wanted = rendered()
    found = {path.name: path.read_text(encoding="utf-8") for path in directory.glob("*.json")}
    differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if options.write:
        directory.mkdir(parents=True, exist_ok=True)
        for name in differing:
            if name in wanted:
                (directory / name).write_text(wanted[name], encoding="utf-8")
            else:
                (directory / name).unlink()
    for name in differing:
        sys.stdout.write(f"{'wrote' if options.write else 'differs'}: {directory / name}\n")
    return 1 if differing and not options.write else 0


if __name__ == "__main__":
    sys.exit(main())
