"""Real Kafka, real Redis and the services on one machine, for `make up`, the demo, tests and benchmarks.

Everything listens on loopback only. Nothing is written outside the directories given and the user's cache folder.
"""

from heliograph.local.errors import CannotProvideError, NotReadyError
from heliograph.local.kafka import KafkaServer
from heliograph.local.ports import free_port, free_ports
from heliograph.local.redis import RedisServer

__all__ = ["CannotProvideError", "KafkaServer", "NotReadyError", "RedisServer", "free_port", "free_ports"]
