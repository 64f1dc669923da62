"""What stays true while something goes wrong: storms, each a function of a scene that adds rows and gates."""

from collections.abc import Callable, Mapping

from heliograph.local.bench.storms.reconnect import drain, lost_edge
from heliograph.local.bench.storms.scene import Options, Scene
from heliograph.local.bench.storms.slow import slow
from heliograph.local.bench.storms.stores import kafka_away, redis_away
from heliograph.local.bench.storms.tenants import flood, poison, wide

__all__ = ["STORMS", "Options", "Scene"]

STORMS: Mapping[str, Callable[[Scene], None]] = {
    "lost-edge": lost_edge,
    "drain": drain,
    "flood": flood,
    "wide": wide,
    "poison": poison,
    "kafka": kafka_away,
    "redis": redis_away,
    "slow": slow,
}
