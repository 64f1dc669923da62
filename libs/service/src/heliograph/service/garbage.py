"""Python's garbage collector, for processes that hold thousands of connections and may not pause.

By its defaults it looks through all there is whenever a quarter came on top: hundreds of milliseconds at ten thousand
connections, several times while a crowd of clients comes back. What such a process makes is freed without it: nothing
that lives long may end as a cycle. Tests hold that for connections (`test_a_connection_that_ended_leaves_nothing`).
"""

import gc

YOUNG = 5_000
"""Net allocations until those are looked through: 3 to 6 ms, where all of them are there to stay."""
OLDER = 1_000
"""Such looks until what lived through one is looked at again: after five million allocations, as insurance."""


def collect_garbage_less(young: int = YOUNG) -> None:
    """Call it once everything is imported: what is there now is never looked at again."""
    gc.freeze()
    gc.set_threshold(young, OLDER, OLDER)
