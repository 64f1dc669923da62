"""What can go wrong on the way to a running stack, each with what would put it right."""

from pathlib import Path

TAIL_LINES = 25
"""Log lines shown when something did not start: enough for a Java stack trace's cause, short enough to read."""


class LocalError(Exception):
    """Anything the user is told in one sentence, without a traceback."""


class CannotProvideError(LocalError):
    """Kafka or Redis can be had in none of the ways known; the text names what is missing."""


class PortTakenError(LocalError):
    """Somebody else listens where something of ours should."""

    def __init__(self, what: str, port: int, setting: str) -> None:
        self.what, self.port, self.setting = what, port, setting
        super().__init__(f"port {port} for {what} is taken by another process; choose another with {setting}")


class NoFreePortError(LocalError):
    """Every port that could be given belongs to some process, or is in use."""


class NotReadyError(LocalError):
    """A process died or was not ready in time; carries the end of its log."""

    def __init__(self, what: str, why: str, log: Path | None = None) -> None:
        self.what, self.why, self.log = what, why, log
        text = f"{what} {why}"
        if log is not None:
            text += f"\nlast lines of {log}:\n{tail(log)}"
        super().__init__(text)


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log file, indented; says so when there are none."""
    try:
        content = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        content = []
    return "\n".join(f"  | {line}" for line in content[-lines:]) or "  | (empty)"
