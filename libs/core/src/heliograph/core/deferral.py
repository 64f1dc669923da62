"""What becomes of a deferred message once the live path has judged it: a table.

A deferred message is one that only the log has, because the live path was away when it was published. When it is back
each is appended in its producer's order. The live store judges it like any publish, and its answer says what to do:

    taken                    it has its position: write it to the log with it
    had it, log has it       nothing is left to do
    had it, log may not      it was taken just before the live path went away. Follow it: whoever took it, or
                             reconciling, writes it from the stored frame; a retry's frame would differ. Where the
                             live path loses it before that, it is judged anew
    not its turn             an earlier one of its producer is on its way: wait for that, for a while. The same where
                             the producer is not known: its first one may be the one that is on its way
    taken long ago           nothing is left to do: a counter takes only the next, so its client, which had no answer
                             from the edge that deferred it, sent it again, and that one was taken
    can't be judged          the memory of its producer is gone: judge it by its message id, which it always has
    refused for now          try again later; others of its producer wait behind it
    never                    its id is another message's: set it aside

What this must never do: drop one, or let a message pass an earlier one of its producer while that can still come.
"""

from collections.abc import Mapping
from enum import Enum


class Step(Enum):
    """What to do with a deferred message."""

    WRITE = "write"
    DONE = "done"
    FOLLOW = "follow"
    WAIT_TURN = "wait_turn"
    JUDGE_BY_ID = "judge_by_id"
    RETRY = "retry"
    SET_ASIDE = "set_aside"


AFTER: Mapping[str, Step] = {
    "ok": Step.WRITE,
    "duplicate": Step.DONE,
    "out_of_order": Step.WAIT_TURN,
    "producer_unknown": Step.WAIT_TURN,
    "producer_seq_expired": Step.DONE,
    "producer_seq_reused": Step.JUDGE_BY_ID,
    "message_id_reused": Step.SET_ASIDE,
    "backlog": Step.RETRY,
    "recovering": Step.RETRY,
}
"""By the live store's answer (`heliograph.stores.ports.AppendStatus`)."""

TURN_S = 3.0
"""How long a message waits for an earlier one of its producer. Its client sends that again within a second or two; one
that never comes was lost with the live store, after it was acknowledged as accepted."""


def after(status: str, *, confirmed: bool, waited_s: float) -> Step:
    """What to do after the answer `status`. `confirmed`: of a duplicate, whether the log has it."""
    step = AFTER[status]
    if status == "duplicate" and not confirmed:
        return Step.FOLLOW
    if step is Step.WAIT_TURN and waited_s >= TURN_S:
        return Step.JUDGE_BY_ID
    return step
