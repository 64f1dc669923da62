"""A development server in a process of its own, for tests.

A process and not a thread: what a test does to its own (a frozen clock, warnings that are errors, a log configuration,
a loop that is blocked for seconds) must not happen to the server. Imports are made when they are needed, since every
run of pytest loads the plugin, whether or not it asks for a server.
"""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from heliograph.dev.options import DEMO_TENANT, SCOPES, TOKEN_TTL_S, TenantRecord

if TYPE_CHECKING:
    from heliograph.cli.keys import SigningKey
    from heliograph.client import Client

START_TIMEOUT_S = 60.0
"""Two seconds alone; a machine on which everything runs at once imports far longer."""

STOP_TIMEOUT_S = 15.0
"""More than its services' own times to stop."""

LOG_LINES = 40
"""Of the log, in the error that says why it did not start."""


class DevProcessError(RuntimeError):
    """The server could not be started. Says why, with the end of its log."""


class HeliographDev:
    """A running Heliograph, in memory. What the fixture `heliograph_dev` gives.

        async with heliograph_dev.client() as client:
            await client.publish(heliograph_dev.session("planner"), {"text": "hello"})

    Nothing of it belongs to an event loop: use it from any, and from none.
    """

    url: str
    """The edge, for the SDK and for HTTP."""
    replay_url: str
    registry_url: str
    router_url: str
    tenants: list[str]

    def __init__(self, log: Path, tenants: Sequence[TenantRecord] = (DEMO_TENANT,), *, log_level: str = "info") -> None:
        self.log = log
        """What its services log."""
        self._asked = {"tenants": list(tenants), "log_level": log_level}
        self._process: subprocess.Popen[bytes] | None = None
        self._key: SigningKey | None = None

    # ---- its life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Return when it is ready. Raises DevProcessError."""
        # A shell that is set up for an installation must not reach into tests.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH_")}
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "heliograph.dev"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C at the terminal, and in a debugger, is the test's
            )
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        overdue = threading.Timer(START_TIMEOUT_S, process.kill)
        overdue.start()
        try:
            process.stdin.write(json.dumps(self._asked).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            overdue.cancel()
        answer: dict[str, Any] = json.loads(line) if line else {"error": {"message": "it ended, or hung"}}
        if "error" in answer:
            self.stop()
            log_end = "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            raise DevProcessError(f"heliograph dev did not start: {answer['error']['message']}\n{log_end}")
        self._take(answer)

    def _take(self, answer: dict[str, Any]) -> None:
        from heliograph.cli.keys import SigningKey  # noqa: PLC0415 - see the module's docstring

        self.url, self.replay_url = answer["url"], answer["replay_url"]
        self.registry_url, self.router_url = answer["registry_url"], answer["router_url"]
        self.tenants = answer["tenants"]
        self._key = SigningKey.from_jwk(answer["key"])

    def stop(self) -> None:
        """End it, and wait until it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.terminate()  # a test that forked may hold the pipe open
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the server, while it runs: for a debugger."""
        assert self._process is not None, "it is not started"
        return self._process.pid

    # ---- what tests use ---------------------------------------------------------------------------------------------

    def token(
        self,
        subject: str = "tester",
        scopes: Sequence[str] = SCOPES,
        *,
        tenant: str | None = None,
        ttl_s: float = TOKEN_TTL_S,
    ) -> str:
        """A token of a tenant (the first where none is named). Scopes: all, unless given."""
        assert self._key is not None, "it is not started"
        return self._key.mint(tenant or self.tenants[0], subject, scopes, ttl_s, "heliograph", None)

    def client(
        self,
        subject: str = "tester",
        scopes: Sequence[str] = SCOPES,
        *,
        tenant: str | None = None,
        **options: Any,
    ) -> "Client":
        """A client of the SDK with a token of its own; `options` are `Client`'s. Connect it with `async with`."""
        from heliograph.client import Client  # noqa: PLC0415 - see the module's docstring

        options.setdefault("proxy", None)  # it is on this machine, whatever the environment has for others
        return Client(self.url, token=self.token(subject, scopes, tenant=tenant), **options)

    def session(self, agent_type: str = "test", *, tenant: str | None = None) -> str:
        """The name of a session that nobody else has: tests share the server, not their sessions."""
        return f"{tenant or self.tenants[0]}:{agent_type}:{secrets.token_hex(8)}"
