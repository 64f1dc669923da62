"""Parameters that several routes take."""

import re
from datetime import datetime
from typing import Annotated, Any

from fastapi import Path
from pydantic import BeforeValidator

from heliograph.core.sessions import LABEL_PATTERN

_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})", re.ASCII
)


def _rfc3339(value: Any) -> Any:
    """pydantic alone would take numbers, dates and times without an offset."""
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 time with an offset, such as 2025-11-24T16:00:00Z")
    text = value.upper()
    return text[:17] + "59" + text[19:] if text[17:19] == "60" else text  # a leap second (RFC 3339, 5.6)


Time = Annotated[datetime, BeforeValidator(_rfc3339)]
Label = Annotated[str, Path(pattern=f"^{LABEL_PATTERN}$")]


def unix_ms(at: datetime | None) -> int | None:
    """Unix ms; times before 1970 are its beginning."""
    return None if at is None else max(0, int(at.timestamp() * 1000))
