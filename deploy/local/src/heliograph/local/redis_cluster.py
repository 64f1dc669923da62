"""A Redis Cluster, each node a process: for tests that take nodes away and move slots.

Quick to notice: a node that says nothing for two seconds has failed, and its replica, where it has one, is elected. A
cluster that lacks slots goes on serving the others, as is recommended for production: what a lost primary had is all
that waits for it.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from heliograph.local.errors import NotReadyError
from heliograph.local.ports import LOOPBACK, free_ports
from heliograph.local.redis import READY_TIMEOUT_S, RedisServer, Tls, credentials
from heliograph.local.redis_sentinel import asked, each, replication

PRIMARIES = 3
SLOTS = 16_384
NODE_TIMEOUT_MS = 2_000
"""A machine that runs tests may well be busy for one."""
KEYS_AT_ONCE = 100
"""Of a slot that moves, in one MIGRATE."""
MIGRATE_TIMEOUT_MS = 5_000


class RedisCluster:
    """`directory` holds a folder for each node. `replicas`: of each primary.

    `tls`: of all nodes, which then speak nothing else, and are named to clients by its host.
    """

    def __init__(
        self,
        directory: Path,
        *,
        primaries: int = PRIMARIES,
        replicas: int = 0,
        appendonly: bool = False,
        settings: dict[str, str] | None = None,
        password: str = "",
        tls: Tls | None = None,
    ) -> None:
        self._password = password
        self._tls = tls
        self._primaries = primaries
        self._formed = False
        count = primaries * (1 + replicas)
        ports = free_ports(2 * count)  # the bus is 10,000 above the port elsewhere, which may be past the last one

        named = (
            {
                "tls-cluster": "yes",
                "cluster-announce-hostname": tls.host,
                "cluster-preferred-endpoint-type": "hostname",
            }
            if tls
            else {}
        )

        def node(port: int, bus_port: int) -> RedisServer:
            return RedisServer(
                directory / f"redis-{port}",
                port,
                appendonly=appendonly,
                settings={
                    "cluster-enabled": "yes",
                    "cluster-config-file": "nodes.conf",
                    "cluster-port": str(bus_port),
                    "cluster-announce-ip": LOOPBACK,
                    "cluster-node-timeout": str(NODE_TIMEOUT_MS),
                    "cluster-require-full-coverage": "no",
                    "cluster-replica-validity-factor": "0",  # however long it was without its primary
                    "repl-diskless-sync-delay": "0",
                    **named,
                    **({"masterauth": password} if password else {}),
                    **(settings or {}),
                },
                password=password,
                tls=tls,
            )

        self._bus_ports = dict(zip(ports[:count], ports[count:], strict=True))
        self.nodes = [node(port, bus_port) for port, bus_port in self._bus_ports.items()]

    @property
    def url(self) -> str:
        tls = self._tls
        hosts = ",".join(f"{tls.host if tls else LOOPBACK}:{node.port}" for node in self.nodes)
        scheme, query = ("rediss", f"?ssl_ca_certs={tls.ca}") if tls else ("redis", "")
        return f"{scheme}+cluster://{credentials(self._password)}{hosts}{query}"

    @property
    def running(self) -> bool:
        return all(node.running for node in self.nodes)

    # ---- all of them -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start those that don't run, side by side; the first time they are made a cluster."""
        each(self.nodes, RedisServer.launch)
        if not self._formed:
            each(self.nodes, RedisServer.wait_ready)
            self._form()
            self._formed = True

    def _form(self) -> None:
        first, primaries, replicas = self.nodes[0], self.nodes[: self._primaries], self.nodes[self._primaries :]
        bounds = [SLOTS * number // len(primaries) for number in range(len(primaries) + 1)]
        for number, node in enumerate(self.nodes):
            self._ask(node, "CLUSTER SET-CONFIG-EPOCH", number + 1)
            if node is not first:
                self._ask(node, "CLUSTER MEET", LOOPBACK, first.port, self._bus_ports[first.port])
        for number, node in enumerate(primaries):
            self._ask(node, "CLUSTER ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        ids = [self._ask(node, "CLUSTER MYID").decode() for node in primaries]
        for number, node in enumerate(replicas):
            wanted, process = ids[number % len(ids)], node.process
            if process is None:
                raise NotReadyError("redis", "was not started")
            process.wait_until(lambda node=node, wanted=wanted: self._follows(node, wanted), READY_TIMEOUT_S)  # type: ignore[misc]

    def _follows(self, node: RedisServer, primary_id: str) -> bool:
        with suppress(redis.ResponseError):  # it has not heard of the primary yet
            return bool(self._ask(node, "CLUSTER REPLICATE", primary_id) in (True, b"OK"))
        return False

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return when every node sees all slots served, all nodes alive, and replicas follow their primaries."""
        for node in self.nodes:
            node.wait_ready(timeout_s)
            process = node.process
            if process is None:
                raise NotReadyError("redis", "was not started")
            process.wait_until(lambda node=node: self._sees_all(node), timeout_s)  # type: ignore[misc]

    def _sees_all(self, node: RedisServer) -> bool:
        with suppress(redis.RedisError, OSError):
            info = asked(node, lambda client: client.execute_command("CLUSTER INFO"))
            found = _fields(info)
            nodes = self._table(node)
            link = asked(node, replication)
            return (
                found["cluster_state"] == "ok"
                and found["cluster_slots_ok"] == str(SLOTS)
                and len(nodes) == len(self.nodes)
                and not any(flag in flags for flags in nodes.values() for flag in ("fail", "fail?", "handshake"))
                and (link["role"] == "master" or link["master_link_status"] == "up")
            )
        return False

    def stop(self) -> None:
        each(self.nodes, RedisServer.stop)

    def kill(self) -> None:
        each(self.nodes, RedisServer.kill)

    def restart(self) -> None:
        self.stop()
        self.start()

    # ---- one of them -------------------------------------------------------------------------------------------------

    def owner(self, key: str | bytes) -> RedisServer:
        """The primary that has the slot of `key` now. Raises NotReadyError while none that runs has it."""
        return self.owner_of_slot(slot_of(key))

    def owner_of_slot(self, slot: int) -> RedisServer:
        for node in self.nodes:
            if not node.running:
                continue
            for first, last, (_, port, *_), *_ in self._ask(node, "CLUSTER SLOTS", raw=True):
                if first <= slot <= last and self._node(int(port)).running:
                    return self._node(int(port))
        raise NotReadyError("redis", f"nobody has slot {slot}")

    def has_owner(self, key: str | bytes) -> bool:
        """Whether a primary that runs has its slot."""
        with suppress(NotReadyError):
            return self.owner(key).running
        return False

    @property
    def primaries(self) -> list[RedisServer]:
        """Those that have slots and run."""
        node = next(node for node in self.nodes if node.running)
        ports = {int(entry[2][1]) for entry in self._ask(node, "CLUSTER SLOTS", raw=True)}
        return [node for node in self.nodes if node.port in ports and node.running]

    def fail_over(self, replica: RedisServer) -> None:
        """In order, as an operator of the Redis does it: begun, not awaited."""
        self._ask(replica, "CLUSTER FAILOVER")

    def _node(self, port: int) -> RedisServer:
        return next(node for node in self.nodes if node.port == port)

    # ---- slots that move ---------------------------------------------------------------------------------------------

    def move_slot(self, slot: int, target: RedisServer) -> None:
        """All of it, with its keys, as `redis-cli --cluster reshard` does."""
        source = self.owner_of_slot(slot)
        self.begin_move(slot, source, target)
        while self.move_keys(slot, source, target):
            pass
        self.end_move(slot, source, target)

    def begin_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """From here on the source answers ASK for keys that it does not have."""
        self._ask(target, "CLUSTER SETSLOT", slot, "IMPORTING", self.id_of(source))
        self._ask(source, "CLUSTER SETSLOT", slot, "MIGRATING", self.id_of(target))

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer, count: int = KEYS_AT_ONCE) -> int:
        """Some of the slot's keys; answers how many there were to move."""
        found = self._ask(source, "CLUSTER GETKEYSINSLOT", slot, count)
        if found:
            auth = ("AUTH", self._password) if self._password else ()
            self._ask(source, "MIGRATE", LOOPBACK, target.port, "", 0, MIGRATE_TIMEOUT_MS, *auth, "KEYS", *found)
        return len(found)

    def end_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """The target has the slot, and says so to all."""
        for node in (target, source, *(node for node in self.primaries if node not in (source, target))):
            self._ask(node, "CLUSTER SETSLOT", slot, "NODE", self.id_of(target))

    def id_of(self, node: RedisServer) -> str:
        return str(self._ask(node, "CLUSTER MYID").decode())

    # ---- asking ------------------------------------------------------------------------------------------------------

    def _ask(self, node: RedisServer, command: str, *arguments: object, raw: bool = False) -> Any:
        def ask(client: Any) -> Any:
            if raw:
                client.response_callbacks.clear()
            return client.execute_command(command, *arguments)

        return asked(node, ask)

    def _table(self, node: RedisServer) -> dict[str, set[str]]:
        """Node id → flags, as `node` sees them."""
        lines = self._ask(node, "CLUSTER NODES", raw=True).decode().splitlines()
        return {line.split()[0]: set(line.split()[2].split(",")) for line in lines}


def slot_of(key: str | bytes) -> int:
    """CLUSTER KEYSLOT."""
    return key_slot(key.encode() if isinstance(key, str) else key)


def _fields(info: Any) -> dict[str, str]:
    if isinstance(info, dict):
        return {str(name): str(value) for name, value in info.items()}
    return dict(line.split(":", 1) for line in info.decode().split() if ":" in line)
