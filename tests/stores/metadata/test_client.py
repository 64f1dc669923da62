"""The metadata store's client: no error but our own reaches a service, whatever breaks below."""

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from heliograph.stores.ports import CorruptError, StoreError
from heliograph.stores.redis.metadata.client import store_errors


@pytest.mark.parametrize(
    ("error", "maybe_done"),
    [
        (RedisConnectionError("refused"), True),
        (NoScriptError("a restart lost it between the look and the call"), False),
        (ResponseError("OOM command not allowed"), False),
        (OSError("broken pipe"), True),
        (TimeoutError(), True),
        (RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed"), True),
    ],
)
def test_whatever_breaks_is_told_as_unavailable(error: Exception, maybe_done: bool) -> None:
    with pytest.raises(StoreError) as caught, store_errors("hg:key"):
        raise error
    assert (caught.value.code, caught.value.maybe_done) == ("unavailable", maybe_done)


def test_a_key_of_another_type_is_corrupt() -> None:
    with pytest.raises(CorruptError), store_errors("hg:key"):
        raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")


def test_an_error_of_our_own_is_not_the_stores() -> None:
    with pytest.raises(RuntimeError, match="ours"), store_errors("hg:key"):
        raise RuntimeError("ours")
