"""The log on Apache Kafka, by confluent-kafka (librdkafka)."""

from heliograph.stores.kafka.access import KafkaLogAccess
from heliograph.stores.kafka.admin import KafkaLogAdmin
from heliograph.stores.kafka.consumer import KafkaLogConsumer
from heliograph.stores.kafka.reader import KafkaLogReader
from heliograph.stores.kafka.writer import KafkaLogWriter

__all__ = ["KafkaLogAccess", "KafkaLogAdmin", "KafkaLogConsumer", "KafkaLogReader", "KafkaLogWriter"]
