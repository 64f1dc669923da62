"""What a development server can be told, and what it must say about itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heliograph.core.errors import HeliographError

NOTHING_IS_DURABLE = (
    "nothing is durable: all stores are in the memory of this process and end with it; `durable: true` in an answer "
    "means that the log in memory has it"
)
"""Said at start, with `--json`, and by `/readyz` of each service."""

DEMO_TENANT = "demo"

SCOPES = ("publish:*:*", "subscribe:*:*", "history:*:*", "presence:*:*", "serve:*:*", "admin:*:*")
"""Of a token that nobody chose scopes for: everything of its tenant."""

TOKEN_TTL_S = 24 * 3600.0
"""A working day and a night: nobody renews a token by hand."""

TenantRecord = str | Mapping[str, Any]
"""A tenant's name, or its record as a tenant file has it; without `auth`, the server's own key is put in."""


class DevServerError(HeliographError):
    """It could not be started, or a service of it failed. `code`: `value_invalid`, `port_taken` or `internal`."""


@dataclass(frozen=True, slots=True)
class DevOptions:
    """Loopback unless told otherwise: the server's key is everybody's who can start a process here."""

    host: str = "127.0.0.1"
    port: int = 8080
    """The edge's; replay, registry and router take the next three. 0: free ones."""
    tenants: Sequence[TenantRecord] = (DEMO_TENANT,)

    def ports(self) -> dict[str, int]:
        """By service."""
        names = ("edge", "replay", "registry", "router")
        return {name: self.port + number if self.port else 0 for number, name in enumerate(names)}
