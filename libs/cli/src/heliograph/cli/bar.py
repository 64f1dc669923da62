"""A bar on stderr for what takes minutes."""

from collections.abc import Callable

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from heliograph.cli.output import stderr


class Bar:
    """Its `with` gives a function that is told how much more is done. Shown on terminals only."""

    def __init__(self, name: str, *, total: int, done: int, shown: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        console = stderr()
        self._progress = Progress(
            *columns, console=console, disable=not (shown and console.is_terminal), transient=True
        )
        self._task: TaskID = self._progress.add_task(name, total=max(1, total), completed=done)

    def __enter__(self) -> Callable[[int], None]:
        self._progress.start()
        return self._advance

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def _advance(self, more: int) -> None:
        self._progress.advance(self._task, more)
