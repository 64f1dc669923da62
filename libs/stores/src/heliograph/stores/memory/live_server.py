"""What the stores of one process share when there is no Redis: sessions, virtual shards, who is subscribed.

It can be stopped and restarted like the real thing, with or without its data, so that what depends on epochs can be
tested without a server.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from heliograph.core.limits import ANNOUNCED_S, VIRTUAL_SHARDS
from heliograph.core.positions import RUN_STARTS, Position
from heliograph.core.producers import Accept, Duplicate, OutOfOrder
from heliograph.stores.keys import virtual_shard
from heliograph.stores.memory.live_session import Session, claim_of
from heliograph.stores.ports import (
    Ack,
    Acknowledged,
    AckStatus,
    Append,
    Appended,
    AppendStatus,
    Bounds,
    Head,
    LiveMemory,
    LivePressure,
    Page,
    Unconfirmed,
)

LOOK_AGAIN_MS = 60_000
"""At a session that is idle but not confirmed."""


@dataclass(slots=True)
class Shard:
    """One virtual shard."""

    run: str = ""
    epoch_ms: int = 0
    last_ms: int = 0
    gone_ms: int = 0
    """The newest epoch of those that were forgotten with their session."""
    sessions: dict[str, Session] = field(default_factory=dict)
    dirty: dict[str, int] = field(default_factory=dict)
    idle: dict[str, int] = field(default_factory=dict)
    bytes_by_tenant: dict[str, int] = field(default_factory=dict)
    announced: dict[tuple[str, str], int] = field(default_factory=dict)
    """Session and id, in the order they were announced, and when that is forgotten (ms)."""

    def note_gone(self, session: Session) -> None:
        self.gone_ms = max(self.gone_ms, Position(session.epoch.name, 0).epoch_ms)


class Client(Protocol):
    """A store that is connected."""

    def deliver(self, session: str, frame: bytes) -> None: ...
    def lost(self) -> None: ...


class MemoryLiveServer:
    """`now_ms`: the server's clock. `run`: makes the 8 hex characters of a process; random by default."""

    def __init__(
        self,
        now_ms: Callable[[], int],
        *,
        virtual_shards: int = VIRTUAL_SHARDS,
        run: Callable[[], str] = lambda: secrets.token_hex(4),
    ) -> None:
        self.now_ms = now_ms
        self._make_run = run
        self._run = run()
        self._shards = [Shard() for _ in range(virtual_shards)]
        self.virtual_shards = virtual_shards
        self.up = True
        self.clients: list[Client] = []
        self.max_bytes = 0
        """Above it nothing is appended; 0: there is no limit."""
        self.lose_publications = 0
        """This many of the next publications reach nobody, as pub/sub may lose them."""

    # ---- its life ---------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Gone until `restart`."""
        if self.up:
            self.up = False
            for client in list(self.clients):
                client.lost()

    def restart(self, *, keep: bool) -> None:
        """Another process behind the same address; `keep`: it found its data again."""
        self.stop()
        self._run = self._make_run()
        if not keep:  # no process is replaced within a millisecond, but a test may be that fast
            now_ms = self.now_ms()
            self._shards = [Shard(last_ms=now_ms) for _ in range(self.virtual_shards)]
        self.up = True

    # ---- what functions do ------------------------------------------------------------------------------------------

    def append(self, message: Append, bounds: Bounds) -> Appended:
        shard = self._shard(message.session)
        session = shard.sessions.get(message.session)
        claim, now_ms = claim_of(message), self.now_ms()
        if session is not None:
            judgement = session.ledger.judge(claim, now_ms)
            if isinstance(judgement, Duplicate):
                if judgement.consumes:
                    session.ledger.record(claim, judgement.position, now_ms)
                return Appended(AppendStatus.DUPLICATE, *judgement.position, judgement.confirmed, session.partition)
            if isinstance(judgement, OutOfOrder):
                return Appended(AppendStatus.OUT_OF_ORDER, expected=judgement.expected)
            if not isinstance(judgement, Accept):
                return Appended(AppendStatus(judgement.code))
        elif claim.producer and claim.producer_seq != 1:
            return Appended(AppendStatus.PRODUCER_UNKNOWN)
        tenant = message.session.partition(":")[0]
        tenant_bytes = shard.bytes_by_tenant.get(tenant, 0)
        if session is not None and (
            session.open >= bounds.unconfirmed_messages or session.unconfirmed_bytes >= bounds.unconfirmed_bytes
        ):
            return Appended(AppendStatus.BACKLOG)
        if tenant_bytes >= bounds.tenant_shard_bytes:
            return Appended(AppendStatus.BACKLOG)
        shard_ms, last_ms = self._epoch(shard)
        if session is None or shard.run != self._run or self._is_stale(session, shard_ms):
            if session is not None and session.recovering:
                return Appended(AppendStatus.RECOVERING)
            last_ms = max(now_ms, last_ms + 1)
            shard.run, shard.epoch_ms, shard.last_ms = self._run, shard_ms, last_ms
            epoch = self._name(last_ms)
            if session is None:
                session = shard.sessions[message.session] = Session(epoch, message.partition)
                shard.idle[message.session] = now_ms
            else:
                session.begin(epoch)
        if session.open == 0:
            shard.dirty[message.session] = now_ms
        entry = session.add(message, bounds, now_ms)
        session.ledger.record(claim, entry.position, now_ms)
        shard.bytes_by_tenant[tenant] = tenant_bytes + message.size_bytes
        self.publish(message.session, entry.frame)
        return Appended(AppendStatus.OK, *entry.position, partition=session.partition)

    def publish(self, session: str, frame: bytes) -> None:
        if self.lose_publications > 0:
            self.lose_publications -= 1
            return
        for client in self.clients:
            client.deliver(session, frame)

    def announce(self, session: str, announcement: str, frame: bytes) -> bool:
        announced, now_ms = self._shard(session).announced, self.now_ms()
        while announced and next(iter(announced.values())) <= now_ms:
            del announced[next(iter(announced))]
        if (session, announcement) in announced:
            return False
        announced[session, announcement] = now_ms + ANNOUNCED_S * 1000
        self.publish(session, frame)
        return True

    def confirm(self, session: str, epoch: str, seqs_and_sizes: Sequence[tuple[int, int]]) -> Head:
        shard = self._shard(session)
        found = shard.sessions.get(session)
        if found is None:
            shard.dirty.pop(session, None)
            return self.head(session)
        freed, advanced = found.confirm(epoch, seqs_and_sizes)
        tenant = session.partition(":")[0]
        shard.bytes_by_tenant[tenant] = max(0, shard.bytes_by_tenant.get(tenant, 0) - freed)
        if found.open == 0:
            shard.dirty.pop(session, None)
        elif advanced:
            shard.dirty[session] = self.now_ms()
        return self.head(session)

    def unconfirm(self, session: str, epoch: str, first_seq: int, last_seq: int, size_bytes: int) -> int:
        shard = self._shard(session)
        found = shard.sessions.get(session)
        if found is None or not found.unconfirm(epoch, first_seq, last_seq, size_bytes):
            return 0
        shard.dirty.setdefault(session, self.now_ms())
        tenant = session.partition(":")[0]
        shard.bytes_by_tenant[tenant] = shard.bytes_by_tenant.get(tenant, 0) + size_bytes
        return last_seq - first_seq + 1

    def head(self, session: str) -> Head:
        found = self._shard(session).sessions.get(session)
        next_epoch = self.next_epoch(session)
        return Head("", 0, 0, 0, next_epoch) if found is None else found.head(next_epoch)

    def page(self, session: str, after: Position | None) -> Page:
        found = self._shard(session).sessions.get(session)
        next_epoch = self.next_epoch(session)
        from_before = after is not None and self._is_before_first(session, after)
        if found is None:
            return Page([], Head("", 0, 0, 0, next_epoch), after is None or from_before, more=False)
        return found.page(after, next_epoch, from_before=from_before)

    def session(self, session: str) -> Session | None:
        return self._shard(session).sessions.get(session)

    def sessions(self, number: int, prefix: str) -> list[str]:
        return [session for session in self._shards[number].sessions if session.startswith(prefix)]

    def acknowledge(self, ack: Ack) -> Acknowledged:
        found = self._shard(ack.session).sessions.get(ack.session)
        return Acknowledged(AckStatus.AHEAD, None, 0) if found is None else found.acknowledge(ack)

    def unconfirmed(self, session: str, limit: int) -> list[Unconfirmed]:
        found = self._shard(session).sessions.get(session)
        return [] if found is None else found.unconfirmed(limit)

    def dirty(self, number: int, before_ms: int, limit: int) -> list[tuple[str, int]]:
        found = sorted((since, name) for name, since in self._shards[number].dirty.items() if since < before_ms)
        return [(name, since) for since, name in found[:limit]]

    def expire(self, number: int, idle_ms: int, limit: int) -> int:
        shard, now_ms, gone = self._shards[number], self.now_ms(), 0
        for due_ms, name in sorted((due, name) for name, due in shard.idle.items())[:limit]:
            session = shard.sessions[name]
            if due_ms > now_ms:
                continue
            if session.at_ms + idle_ms > now_ms:
                shard.idle[name] = session.at_ms + idle_ms
            elif session.open:
                shard.idle[name] = now_ms + LOOK_AGAIN_MS
            else:
                shard.note_gone(session)
                del shard.sessions[name], shard.idle[name]
                shard.dirty.pop(name, None)
                gone += 1
        return gone

    def forget(self, name: str) -> bool:
        shard = self._shard(name)
        session = shard.sessions.pop(name, None)
        shard.idle.pop(name, None)
        shard.dirty.pop(name, None)
        if session is None:
            return False
        shard.note_gone(session)
        tenant = name.partition(":")[0]
        shard.bytes_by_tenant[tenant] = max(0, shard.bytes_by_tenant.get(tenant, 0) - session.unconfirmed_bytes)
        return True

    @property
    def full(self) -> bool:
        """As a server that may not evict is above `maxmemory`."""
        return self.max_bytes > 0 and self.memory().used_bytes > self.max_bytes

    def memory(self) -> LiveMemory:
        used = sum(session.window_bytes for shard in self._shards for session in shard.sessions.values())
        return LiveMemory(used, self.max_bytes)

    def pressure(self) -> LivePressure:
        memory = self.memory()
        unconfirmed = sum(sum(shard.bytes_by_tenant.values()) for shard in self._shards)
        return LivePressure(memory.used_bytes, memory.max_bytes, unconfirmed)

    def next_epoch(self, session: str) -> str:
        return self._name(self._shard(session).last_ms + 1)

    # ---- epochs -----------------------------------------------------------------------------------------------------

    def _shard(self, session: str) -> Shard:
        return self._shards[virtual_shard(session, self.virtual_shards)]

    def _epoch(self, shard: Shard) -> tuple[int, int]:
        """The shard's epoch under this process, and the last epoch it gave (ms)."""
        if shard.run == self._run:
            return shard.epoch_ms, shard.last_ms
        epoch_ms = max(self.now_ms(), shard.last_ms + 1)
        return epoch_ms, epoch_ms

    def _is_before_first(self, session: str, position: Position) -> bool:
        """Whether it is where the session stood while it had no keys, and none of its messages since were forgotten."""
        shard, same_run = self._shard(session), position.epoch[RUN_STARTS:] == self._run
        return same_run and position.seq == 0 and shard.gone_ms < position.epoch_ms <= shard.last_ms + 1

    def _is_stale(self, session: Session, shard_ms: int) -> bool:
        name = session.epoch.name
        return name[RUN_STARTS:] != self._run or int(name[:13]) < shard_ms

    def _name(self, ms: int) -> str:
        return f"{ms:013d}-{self._run}"
