"""What is kept of a run that failed: its history and the logs of everything, under `.local/faults/` of this checkout.

`python -m tests.faults.show PATH` shows a history.
"""

import pickle
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.system.history import History
from tests.system.load import Run

PLACE = Path(__file__).parents[2] / ".local" / "faults"
FILE = "history.pickle"


@asynccontextmanager
async def kept(run: Run) -> AsyncIterator[None]:
    """Keep it if what is done inside fails, and say where."""
    try:
        yield
    except BaseException:
        folder = PLACE / str(run.seed)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / FILE).write_bytes(pickle.dumps(run.history))
        for log in run.rig.directory.rglob("*.log"):
            shutil.copy(log, folder / log.name if log.parent.name == "logs" else folder / f"{log.parent.name}.log")
        print(f"\nkept: {folder} (python -m tests.faults.show {folder})")
        raise


def load_history(folder: Path) -> History:
    """A kept history; a pickle, so only of one's own."""
    history = pickle.loads((folder / FILE if folder.is_dir() else folder).read_bytes())
    assert isinstance(history, History)
    return history
