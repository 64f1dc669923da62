"""Who else may read the log, in memory."""


class MemoryLogAccess:
    """`heliograph.stores.ports.LogAccess`."""

    def __init__(self) -> None:
        self.passwords: dict[str, str] = {}
        self._rights: dict[str, set[str]] = {}

    async def has_user(self, user: str) -> bool:
        return user in self.passwords

    async def set_user(self, user: str, password: str) -> None:
        self.passwords[user] = password

    async def drop_user(self, user: str) -> None:
        self.passwords.pop(user, None)

    async def readable(self, user: str) -> set[str]:
        return set(self._rights.get(user, ()))

    async def allow(self, user: str, prefix: str) -> None:
        self._rights.setdefault(user, set()).add(prefix)

    async def forbid(self, user: str) -> None:
        self._rights.pop(user, None)
