"""Who else may read the log: SCRAM users and ACLs, by Kafka's own admin protocol (KIP-554, KIP-140)."""

from collections.abc import Mapping
from typing import Any

import confluent_kafka.admin
from confluent_kafka import KafkaError

from heliograph.stores.kafka.calls import REQUEST_TIMEOUT_S, AdminCalls, Users

SCRAM_ITERATIONS = 8_192
"""Twice what RFC 7677 asks for at least; the brokers compute them once a connection."""

_library: Any = confluent_kafka.admin  # has no types


class KafkaLogAccess:
    """`heliograph.stores.ports.LogAccess`."""

    def __init__(self, properties: Mapping[str, object], *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        """`properties`: librdkafka's, `bootstrap.servers` among them."""
        self._calls = AdminCalls(properties, timeout_s)
        self._users = Users(self._calls)

    async def close(self) -> None:
        await self._calls.close()

    async def has_user(self, user: str) -> bool:
        return await self._users.described(user)

    async def set_user(self, user: str, password: str) -> None:
        info = _library.ScramCredentialInfo(_library.ScramMechanism.SCRAM_SHA_512, SCRAM_ITERATIONS)
        change = _library.UserScramCredentialUpsertion(user, info, password.encode())
        await self._users.alter(f"set the password of {user}", change)

    async def drop_user(self, user: str) -> None:
        if not await self.has_user(user):
            return
        change = _library.UserScramCredentialDeletion(user, _library.ScramMechanism.SCRAM_SHA_512)
        await self._users.alter(f"drop the user {user}", change, missing=frozenset({KafkaError.RESOURCE_NOT_FOUND}))

    async def readable(self, user: str) -> set[str]:
        topics: set[str] = set()
        groups: set[str] = set()
        for binding in await self._users.rights(_filter(user)):
            allowed = binding.permission_type == _library.AclPermissionType.ALLOW
            prefixed = binding.resource_pattern_type == _library.ResourcePatternType.PREFIXED
            if allowed and prefixed and binding.operation == _library.AclOperation.READ:
                (topics if binding.restype == _library.ResourceType.TOPIC else groups).add(binding.name)
        return topics & groups

    async def allow(self, user: str, prefix: str) -> None:
        kinds, operations = _library.ResourceType, _library.AclOperation
        wanted = ((kinds.TOPIC, operations.READ), (kinds.TOPIC, operations.DESCRIBE), (kinds.GROUP, operations.READ))
        await self._users.allow(
            f"let {user} read",
            [
                _library.AclBinding(
                    kind,
                    prefix,
                    _library.ResourcePatternType.PREFIXED,
                    f"User:{user}",
                    "*",
                    operation,
                    _library.AclPermissionType.ALLOW,
                )
                for kind, operation in wanted
            ],
        )

    async def forbid(self, user: str) -> None:
        await self._users.forbid(f"take the rights of {user} away", _filter(user))


def _filter(user: str) -> Any:
    """Everything that is said of one user."""
    return _library.AclBindingFilter(
        _library.ResourceType.ANY,
        None,
        _library.ResourcePatternType.ANY,
        f"User:{user}",
        None,
        _library.AclOperation.ANY,
        _library.AclPermissionType.ANY,
    )
