"""How much of what is limited is in use, over all edges, as one of them sees it.

A limit of a tenant (connections, sessions at once) holds over any number of edges. Asking a store for every connection
would make clients wait for it, so each edge counts what it has, tells it once a second, and reads what all have
together: it admits by its own count, which is exact, and by what the others had a second ago.

What nobody would miss is not told: an edge's part of a limit that is far from reached stays at home, so that thousands
of small tenants and tens of thousands of subjects cost nothing. All that is untold of one limit is below an eighth of
it; from half of a limit on everything is told. Over-admission is bounded by that, and by what edges admit in a second.

While nobody answers, an edge believes the others' last counts for a time, then takes its share: the limit divided by
the edges there were. What this must never do: refuse what is there already (a limit below what is in use closes
nobody), or let a count go below what it has.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

SLACK = 8
"""What is not told of a limit adds up to less than this part of it."""

NEAR = 2
"""From this part of a limit on everything of it is told."""

STAY = 2
"""So many times smaller it must become until it is not told any more."""

KEEP_S = 60.0
"""What an edge has no longer is asked for so long: a client that comes and goes must not be new each time."""

MOST_TOLD = 2_000
"""Names told in one round: 2 ms of Redis. More wait for the next one, as after an edge has lost its place."""

MOST_ASKED = 2_000
"""Names asked in one round; where there are more, each is asked in turn."""

ELSEWHERE_S = 30.0
"""For so long a member that another edge has is taken as known."""


def connections_of(tenant: str) -> str:
    """The name of a tenant's connections."""
    return f"c:{tenant}"


def connections_of_subject(tenant: str, subject: str) -> str:
    """The name of the connections of one of its subjects. Tenants hold no colon."""
    return f"i:{tenant}:{subject}"


def sessions_of(tenant: str) -> str:
    """The name of the set of its sessions in use."""
    return f"s:{tenant}"


def member_of(name: str, member: str) -> str:
    """The name of a member of a set."""
    return f"{name}\0{member}"


class Count:
    """One limited thing."""

    __slots__ = ("here", "limit", "members", "others", "seldom", "since_s", "telling", "told", "told_members")

    def __init__(self, limit: int, *, seldom: bool) -> None:
        self.limit = limit
        self.seldom = seldom
        """Asked only while it is much: there may be as many as there are clients."""
        self.here = 0
        self.told = 0
        self.telling = False
        self.others = 0
        self.members: set[str] | None = None
        self.told_members: set[str] | None = None
        self.since_s = math.inf
        """Since when there is nothing of it here."""

    def matters(self, edges: int) -> bool:
        """Whether the others should know. What they were told is not taken back before it is half of that."""
        weight = STAY if self.telling else 1
        all_ = self.here + self.others
        return max(self.here, 1) * SLACK * edges * weight > self.limit or all_ * NEAR * weight > self.limit


class SharedUse:
    """The counts of one edge, and what it knows of the others'."""

    def __init__(self, *, believe_s: float) -> None:
        """`believe_s`: how long the others' last counts are taken for true while nobody answers."""
        self._believe_s = believe_s
        self._believed_until_s = -math.inf
        self._counts: dict[str, Count] = {}
        self._changed: dict[str, None] = {}
        """Names, of members too, whose count the others may not know."""
        self._idle: dict[str, None] = {}
        """Those with nothing here, longest first."""
        self._wanted: dict[str, None] = {}
        """Members of which it is to be asked whether another edge has them."""
        self._elsewhere: dict[str, float] = {}
        self._turn = 0
        self.edges = 1
        """That there were, as told last."""

    # ---- here -------------------------------------------------------------------------------------------------------

    def here(self, name: str) -> int:
        """How many this edge has."""
        count = self._counts.get(name)
        return count.here if count is not None else 0

    def room(self, name: str, limit: int, now: float, *, seldom: bool = False) -> bool:
        """Whether one more may be had at `now` (seconds, monotonic)."""
        count = self._count(name, limit, now, seldom=seldom)
        if now < self._believed_until_s:
            return count.here + count.others < limit
        return count.here < math.ceil(limit / self.edges)

    def add(self, name: str, limit: int, now: float, *, seldom: bool = False) -> None:
        """One more is here, whatever the limit."""
        count = self._count(name, limit, now, seldom=seldom)
        count.here += 1
        self._idle.pop(name, None)
        self._changed[name] = None

    def remove(self, name: str, now: float) -> None:
        """One is gone."""
        count = self._counts[name]
        count.here -= 1
        self._changed[name] = None
        if count.here == 0:
            count.since_s = now
            self._idle[name] = None

    def room_for(self, name: str, member: str, limit: int, now: float) -> bool:
        """Whether a member may be in the set: it is there, or known to be elsewhere, or there is room for one more."""
        count = self._counts.get(name)
        if count is not None and count.members is not None and member in count.members:
            return True
        if self.room(name, limit, now):
            return True
        whole = member_of(name, member)
        if now < self._elsewhere.get(whole, -math.inf):
            return True
        if len(self._wanted) < MOST_ASKED:
            self._wanted[whole] = None
        return False

    def put_in(self, name: str, member: str, limit: int, now: float) -> None:
        """A member is in use here, whatever the limit."""
        count = self._count(name, limit, now, seldom=False)
        if count.members is None:
            count.members, count.told_members = set(), set()
        if member not in count.members:
            count.members.add(member)
            count.here += 1
            self._idle.pop(name, None)
            self._changed[name] = None
            self._changed[member_of(name, member)] = None

    def take_out(self, name: str, member: str, now: float) -> None:
        """A member is not in use here any more."""
        count = self._counts[name]
        assert count.members is not None
        count.members.remove(member)
        self._changed[member_of(name, member)] = None
        self.remove(name, now)

    # ---- with the others --------------------------------------------------------------------------------------------

    def on_share(self, now: float) -> bool:
        """Whether nobody has answered for so long that this edge keeps to its share."""
        return now >= self._believed_until_s

    def round(self, now: float) -> tuple[dict[str, int], list[str]]:
        """What to tell, and the names to ask for. `learned` follows, or nothing where nobody answered."""
        self._forget_idle(now)
        told: dict[str, int] = {}
        for name in list(self._changed):
            if len(told) >= MOST_TOLD:
                break
            told.update(self._to_tell(name))
            del self._changed[name]
        asked = list(islice(self._wanted, MOST_ASKED))
        return told, asked + self._in_turn(MOST_ASKED - len(asked))

    def learned(
        self, now: float, told: Mapping[str, int], asked: Sequence[str], totals: Sequence[int], edges: int
    ) -> None:
        """`told` was taken, and of `asked` all edges have `totals`."""
        for name, number in told.items():
            self._note_told(name, number)
        for name, total in zip(asked, totals, strict=True):
            self._wanted.pop(name, None)
            count = self._counts.get(name)
            if count is not None:
                count.others = max(0, total - count.told)
                if count.matters(edges) != count.telling:
                    self._changed[name] = None
            elif total > self._told_member(name):
                self._elsewhere[name] = now + ELSEWHERE_S
        if edges != self.edges:
            self.edges = max(1, edges)
            self._changed.update(dict.fromkeys(self._counts))
        self._believed_until_s = now + self._believe_s
        for name in [name for name, until in self._elsewhere.items() if until <= now]:
            del self._elsewhere[name]

    def untold(self, told: Mapping[str, int]) -> None:
        """Nobody answered: it is to be told again."""
        self._changed.update(dict.fromkeys(told))

    def begin_anew(self) -> None:
        """Nothing that was told counts any more."""
        for name, count in self._counts.items():
            count.told, count.telling = 0, False
            self._changed[name] = None
            if count.told_members is not None:
                count.told_members.clear()

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _count(self, name: str, limit: int, now: float, *, seldom: bool) -> Count:
        count = self._counts.get(name)
        if count is None:
            count = self._counts[name] = Count(limit, seldom=seldom)
            count.since_s = now
            self._idle[name] = None
        elif count.limit != limit:
            count.limit = limit
            self._changed[name] = None
        return count

    def _to_tell(self, name: str) -> Iterator[tuple[str, int]]:
        count = self._counts.get(name)
        if count is None:
            yield from self._member_to_tell(name)
            return
        turned = count.matters(self.edges) != count.telling
        if turned:
            count.telling = not count.telling
        if count.members is None:
            number = count.here if count.telling else 0
            if number != count.told:
                yield name, number
        elif turned:  # its members follow by themselves, as many a round as fit
            assert count.told_members is not None
            differing = count.members ^ count.told_members if count.telling else count.told_members
            self._changed.update(dict.fromkeys(member_of(name, member) for member in differing))

    def _member_to_tell(self, name: str) -> Iterator[tuple[str, int]]:
        of, _, member = name.partition("\0")
        count = self._counts.get(of)
        if count is None or count.members is None or count.told_members is None:
            return
        wanted = count.telling and member in count.members
        if wanted != (member in count.told_members):
            yield name, int(wanted)

    def _told_member(self, name: str) -> int:
        """How many of a member the others know this edge to have."""
        of, _, member = name.partition("\0")
        count = self._counts.get(of)
        return int(count is not None and count.told_members is not None and member in count.told_members)

    def _note_told(self, name: str, number: int) -> None:
        of, is_member, member = name.partition("\0")
        count = self._counts.get(of)
        if count is None:
            return
        if not is_member:
            count.told = number
            return
        assert count.told_members is not None
        (count.told_members.add if number else count.told_members.discard)(member)
        count.told = len(count.told_members)

    def _in_turn(self, most: int) -> list[str]:
        edges = self.edges
        names = [name for name, count in self._counts.items() if not count.seldom or count.matters(edges)]
        if len(names) <= most:
            return names
        start = self._turn % len(names)
        self._turn = start + most
        return (names + names)[start : start + most]

    def _forget_idle(self, now: float) -> None:
        over: list[str] = []
        for name in self._idle:
            if now < self._counts[name].since_s + KEEP_S:
                break
            over.append(name)
        for name in over:
            count = self._counts[name]
            if count.told == 0 and not count.told_members:
                del self._counts[name], self._idle[name]
                self._changed.pop(name, None)
