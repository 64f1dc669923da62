"""What to look at where a Redis will not have us, or we not it: the setting, and which part of it. Never its value."""

USER = ("WRONGPASS", "NOAUTH", "NOPERM", "invalid username-password", "Authentication required", "has no permissions")
"""What Redis says, and what redis-py makes of it."""
TLS = ("CERTIFICATE_VERIFY_FAILED", "[SSL", "SSL: ")


def explained(message: str, setting: str) -> str:
    """The message, with what to look at behind it where it is about who we are, or who Redis is."""
    if any(word in message for word in USER):
        return f"{message}; see user and password in {setting}"
    if any(word in message for word in TLS):
        return f"{message}; see rediss:// and ssl_ca_certs in {setting}"
    return message
