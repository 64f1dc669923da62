"""A primary, its replica and three sentinels, each a process: for tests that take the primary away.

Quick to notice: a server that says nothing for two seconds is down to a sentinel, and the replica is made the primary
when two of them agree. Which server is the primary changes; each keeps its place in a file of its own, so that one that
was killed comes back as the sentinels left it, and is made a replica of the other.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis

from heliograph.local.errors import NotReadyError
from heliograph.local.ports import LOOPBACK, free_ports
from heliograph.local.processes import ServerProcess
from heliograph.local.redis import READY_TIMEOUT_S, SOCKET_TIMEOUT_S, RedisServer, Tls, credentials

MASTER = "main"
SENTINELS = 3
QUORUM = 2
DOWN_AFTER_MS = 2_000
"""A machine that runs tests may well be busy for one."""
FAILOVER_TIMEOUT_MS = 6_000
"""After twice this a failover that came to nothing is tried again."""


class RedisSentinel:
    """`directory` holds a folder for each process. `password`: of both servers; sentinels have one of their own.

    `tls`: of all of them, which then speak nothing else, and name each other by its host.
    """

    def __init__(
        self,
        directory: Path,
        *,
        appendonly: bool = False,
        settings: dict[str, str] | None = None,
        password: str = "",
        sentinel_password: str = "",
        tls: Tls | None = None,
    ) -> None:
        self._password = password
        self._sentinel_password = sentinel_password
        self._tls = tls
        host = tls.host if tls else LOOPBACK
        first, second, *ports = free_ports(2 + SENTINELS)

        def server(port: int, own: dict[str, str]) -> RedisServer:
            return RedisServer(
                directory / f"redis-{port}",
                port,
                appendonly=appendonly,
                settings={
                    "repl-diskless-sync-delay": "0",
                    **({"replica-announce-ip": host} if tls else {}),
                    **({"masterauth": password} if password else {}),
                    **(settings or {}),
                    **own,
                },
                password=password,
                keeps_settings=True,
                tls=tls,
            )

        def sentinel(port: int) -> RedisServer:
            names = {"sentinel resolve-hostnames": "yes", "sentinel announce-hostnames": "yes"}
            watched = {
                **(names if tls else {}),
                f"sentinel monitor {MASTER}": f"{host} {first} {QUORUM}",
                f"sentinel down-after-milliseconds {MASTER}": str(DOWN_AFTER_MS),
                f"sentinel failover-timeout {MASTER}": str(FAILOVER_TIMEOUT_MS),
                **({f"sentinel auth-pass {MASTER}": password} if password else {}),
                **({"sentinel sentinel-pass": sentinel_password} if sentinel_password else {}),
            }
            return RedisServer(
                directory / f"sentinel-{port}",
                port,
                settings=watched,
                password=sentinel_password,
                sentinel=True,
                tls=tls,
            )

        self.servers = [server(first, {}), server(second, {"replicaof": f"{host} {first}"})]
        self.sentinels = [sentinel(port) for port in ports]

    @property
    def url(self) -> str:
        tls, password = self._tls, self._sentinel_password
        hosts = ",".join(f"{tls.host if tls else LOOPBACK}:{sentinel.port}" for sentinel in self.sentinels)
        said = [f"ssl_ca_certs={tls.ca}"] if tls else []
        said += [f"sentinel_password={password}"] if password else []
        scheme, query = "rediss" if tls else "redis", f"?{'&'.join(said)}" if said else ""
        return f"{scheme}+sentinel://{credentials(self._password)}{hosts}/{MASTER}{query}"

    @property
    def running(self) -> bool:
        return all(server.running for server in self._processes)

    @property
    def _processes(self) -> list[RedisServer]:
        return [*self.servers, *self.sentinels]

    # ---- all of them -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start those that don't run. Sentinels ask for replicas only every ten seconds: the first finds its own."""
        each(self.servers, RedisServer.launch)
        if not any(sentinel.running for sentinel in self.sentinels):
            for server in self.servers:
                server.wait_ready()
            self._process.wait_until(self._linked, READY_TIMEOUT_S)
        each(self.sentinels, RedisServer.launch)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return when one is the primary, the other follows it, and each sentinel knows all that."""
        for server in self._processes:
            server.wait_ready(timeout_s)
        self._process.wait_until(self._in_order, timeout_s)

    @property
    def _process(self) -> ServerProcess:
        process = self.servers[0].process
        if process is None:
            raise NotReadyError("redis", "was not started")
        return process

    def _linked(self) -> bool:
        with suppress(redis.RedisError, OSError):
            links = [asked(server, replication) for server in self.servers]
            # None follows the other where both were killed in the middle of a failover: sentinels put that right.
            masters = [link for link in links if link["role"] == "master"]
            return len(masters) == len(links) or any(link.get("master_link_status") == "up" for link in links)
        return False

    def _in_order(self) -> bool:
        with suppress(redis.RedisError, OSError):
            primary, replica = self.primary, self.replica
            link = asked(replica, replication)
            if link.get("master_port") != primary.port or link.get("master_link_status") != "up":
                return False
            return all(self._knows(sentinel, primary) for sentinel in self.sentinels)
        return False

    def _knows(self, sentinel: RedisServer, primary: RedisServer) -> bool:
        seen = asked(sentinel, lambda client: client.sentinel_master(MASTER))
        return bool(
            seen["port"] == primary.port
            and seen["is_master"]
            and not (seen["is_sdown"] or seen["is_odown"])
            and seen["num-slaves"] == len(self.servers) - 1
            and seen["num-other-sentinels"] == SENTINELS - 1
        )

    def stop(self) -> None:
        """All at once, the sentinels first: in order they would see the others' end as a failure."""
        each(self.sentinels, RedisServer.stop)
        each(self.servers, RedisServer.stop)

    def kill(self) -> None:
        each(self._processes, RedisServer.kill)

    def restart(self) -> None:
        self.stop()
        self.start()

    # ---- one of them -------------------------------------------------------------------------------------------------

    @property
    def primary(self) -> RedisServer:
        """The one that the sentinels name now. Raises redis-py's errors where none answers."""
        for sentinel in self.sentinels:
            if sentinel.running:
                found = asked(
                    sentinel, lambda client: client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", MASTER)
                )
                return next(server for server in self.servers if server.port == int(found[1]))
        raise NotReadyError("sentinel", "does not run")

    @property
    def replica(self) -> RedisServer:
        primary = self.primary
        return next(server for server in self.servers if server is not primary)

    def fail_over(self) -> None:
        """In order, as an operator of the Redis does it: begun, not awaited."""
        asked(self.sentinels[0], lambda client: client.execute_command("SENTINEL FAILOVER", MASTER))


def replication(client: Any) -> Any:
    return client.info("replication")


def asked(server: RedisServer, ask: Callable[[Any], Any]) -> Any:
    """What a server on this machine answers, over a connection of its own."""
    with redis.Redis.from_url(server.url, socket_timeout=SOCKET_TIMEOUT_S, protocol=2) as client:
        return ask(client)


def each(servers: Iterable[RedisServer], do: Callable[[RedisServer], None]) -> None:
    """To all of them side by side; the first error is raised when all are done."""
    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(do, server) for server in servers]:
            done.result()
