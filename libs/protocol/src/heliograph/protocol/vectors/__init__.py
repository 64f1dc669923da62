"""Golden vectors: what an SDK in another language is held to, made from this code and kept in `libs/protocol/vectors`.

`python -m heliograph.protocol.vectors` says whether the files are what the code makes; with `--write` it writes them.
A change of a file is a change of a format: look at the difference before it is committed.
"""

import json
from typing import Any

from heliograph.protocol.vectors import frame_cases, message_cases, value_cases

DOCUMENTS: dict[str, dict[str, Any]] = {
    **value_cases.documents(),
    **frame_cases.documents(),
    **message_cases.documents(),
}
"""File name without `.json` → content."""


def rendered() -> dict[str, str]:
    """File name → text."""
    return {f"{name}.json": json.dumps(document, indent=2) + "\n" for name, document in DOCUMENTS.items()}
