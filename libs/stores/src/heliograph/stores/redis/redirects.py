"""What to do about an answer that says: not here, or not now. Decisions only.

A Redis Cluster answers `MOVED` (the slot is somebody else's), `ASK` (this key has gone where its slot is going; ask
there, once), `TRYAGAIN` (some keys of the command have gone already, so that nobody can do it now); a server that has
lost the function library says so; a primary that became a replica is `READONLY`.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import hiredis

from heliograph.stores.redis.library import is_missing
from heliograph.stores.redis.topology import Node


class Step(Enum):
    """What has to happen before the command is sent again."""

    FOLLOW = auto()
    """The virtual shard is at `node` from now on."""
    ASK = auto()
    """Only this command goes to `node`, behind ASKING."""
    WAIT = auto()
    """A moment, then again where it was."""
    LOAD = auto()
    """The function library."""


@dataclass(frozen=True, slots=True)
class Again:
    """A command that was not carried out, and can be once `step` was done."""

    step: Step
    node: Node = ("", 0)


_WAIT = Again(Step.WAIT)
_LOAD = Again(Step.LOAD)


def again(reply: Any, asked: Node) -> Again | None:
    """What to do about a reply; None: it is the answer, be it an error. `asked`: who gave it."""
    if type(reply) is not hiredis.ReplyError:
        return None
    words = str(reply).split(" ", 3)
    if words[0] in ("MOVED", "ASK") and len(words) >= 3:
        host, _, port = words[2].rpartition(":")
        if not port.isdecimal():
            return None
        return Again(Step.FOLLOW if words[0] == "MOVED" else Step.ASK, (host or asked[0], int(port)))
    if words[0] == "TRYAGAIN":
        return _WAIT
    return _LOAD if is_missing(reply) else None


def is_elsewhere(reply: Any) -> bool:
    """Whether it says that another server has this key."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(("MOVED ", "ASK "))


def is_lost_primary(reply: Any) -> bool:
    """Whether who answered is no primary any more, or never was: a failover left us with it."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("READONLY ")


def is_down(reply: Any) -> bool:
    """Whether the cluster, as this node sees it, serves nobody now."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("CLUSTERDOWN ")
