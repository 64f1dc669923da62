"""A tenant's own consumers of its topics: a user that can read them, where `spec.access` asks for it.

The user's name is made from the tenant's, never chosen: a Tenant must not set the password of somebody else's user. It
is in the status before it is in Kafka: who goes on after an operator that was killed in between knows that there may be
something to take away.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heliograph.operator.conditions import Condition, Truth
from heliograph.operator.kube import SECRETS, Kube
from heliograph.operator.tenants.keys import UnusableReferenceError, referred
from heliograph.operator.tenants.status import ACCESS_READY
from heliograph.stores.ports import LogAccess, StoreError


@dataclass(frozen=True, slots=True)
class AccessFound:
    """`told`: `status.access` (empty: there is none; None: stays). `condition`: None where none is asked for."""

    told: dict[str, str] | None
    condition: Condition | None
    steps: tuple[str, ...] = ()
    begun: bool = False
    """Nothing is done yet but to tell it: the next look goes on, at once."""


class Access:
    """Keeps users and their rights."""

    def __init__(self, kube: Kube, log: LogAccess, prefix: str) -> None:
        """`prefix`: of topics."""
        self._kube = kube
        self._log = log
        self._prefix = prefix

    def user(self, tenant: str) -> str:
        """The SCRAM user of a tenant."""
        return f"{self._prefix}.{tenant}"

    async def keep(
        self, namespace: str, tenant: str, wanted: Mapping[str, Any] | None, told: Mapping[str, str] | None
    ) -> AccessFound:
        """Make it what is wanted. `told`: `status.access`, from which it is known which password was set.

        Raises KubeError; StoreError only where the cluster can't be reached.
        """
        if wanted is None:
            if not told:
                return AccessFound(None, None)
            await self.take_away(tenant)
            return AccessFound({}, None, (f"took the access of {self.user(tenant)} away",))
        user, steps = self.user(tenant), []
        try:
            password, version = await referred(self._kube, SECRETS, namespace, wanted["passwordFrom"]["secretKeyRef"])
            text = password.decode().strip()
            if not text:
                raise UnusableReferenceError("Unreadable", "the password is empty")
            if not told:
                begins = Condition(ACCESS_READY, Truth.UNKNOWN, "Granting", f"{user} is being made")
                return AccessFound({"user": user}, begins, begun=True)
            if told.get("secretVersion") != version or not await self._log.has_user(user):
                await self._log.set_user(user, text)
                steps.append(f"set the password of {user}")
            if f"{user}." not in await self._log.readable(user):
                await self._log.allow(user, f"{user}.")
                steps.append(f"let {user} read")
        except UnusableReferenceError as error:
            return AccessFound(None, _failed(error.reason, str(error)))
        except UnicodeDecodeError:
            return AccessFound(None, _failed("Unreadable", "the password is no text"))
        except StoreError as error:
            if error.code == "log_unavailable":
                raise
            return AccessFound(None, _failed("Refused", error.message))
        condition = Condition(ACCESS_READY, Truth.TRUE, "AccessGranted", f"{user} may read topics {user}.*")
        return AccessFound({"user": user, "secretVersion": version}, condition, tuple(steps))

    async def take_away(self, tenant: str) -> None:
        """User and rights. Raises StoreError."""
        user = self.user(tenant)
        await self._log.forbid(user)
        await self._log.drop_user(user)


def _failed(reason: str, message: str) -> Condition:
    return Condition(ACCESS_READY, Truth.FALSE, reason, message)
