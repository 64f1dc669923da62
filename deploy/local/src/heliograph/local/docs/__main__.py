"""`python -m heliograph.local.docs [--check]`: write the generated files, or say which are out of date.

They are docs/reference, the chart's custom resource definitions, dashboards, runbooks and part of its schema, and
tables in its README, in docs/install.md and in docs/operations.md.
"""

import argparse
import sys
from pathlib import Path

from heliograph.local.dashboards.rendering import rendered as rendered_dashboards
from heliograph.local.docs.capacity import capacity_tables
from heliograph.local.docs.chart import filled, install_page, readme, values_schema
from heliograph.local.docs.reference import as_yaml, rendered
from heliograph.local.docs.runbooks import NAME, runbooks_file
from heliograph.operator.crds import CRDS

DIRECTORY = Path(__file__).parents[6] / "docs"
CHART = DIRECTORY.parent / "charts" / "heliograph"
INSTALL_PAGE = DIRECTORY / "install.md"
OPERATIONS_PAGE = DIRECTORY / "operations.md"
CRD_DIRECTORY = CHART / "crds"
DASHBOARD_DIRECTORY = CHART / "files" / "dashboards"


def main(arguments: list[str] | None = None) -> int:
    """0: the files are what the code makes (or were written), 1: some differ."""
    parser = argparse.ArgumentParser(prog="python -m heliograph.local.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a file is out of date")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="the docs folder (%(default)s)")
    parser.add_argument("--crds", type=Path, default=CRD_DIRECTORY, help="the folder of CRDs (%(default)s)")
    options = parser.parse_args(arguments)
    stale = 0
    files: dict[Path, str] = {options.directory / name: text for name, text in rendered().items()}
    files |= {options.crds / name: as_yaml(make()) for name, make in CRDS.items()}
    files |= {DASHBOARD_DIRECTORY / name: text for name, text in rendered_dashboards().items()}
    files[CHART / "files" / NAME] = runbooks_file(OPERATIONS_PAGE)
    files[CHART / "values.schema.json"] = values_schema(CHART)
    files[CHART / "README.md"] = readme(CHART)
    files[INSTALL_PAGE] = install_page(INSTALL_PAGE, CHART)
    files[OPERATIONS_PAGE] = filled(OPERATIONS_PAGE, "capacity", capacity_tables())
    for path, text in files.items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        print(f"{'out of date: run `make docs`' if options.check else 'wrote'}: {path}")
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
