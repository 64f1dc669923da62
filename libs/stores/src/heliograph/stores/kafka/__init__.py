"""The log on Apache Kafka, by confluent-kafka (librdkafka)."""

from heliograph.stores.kafka.admin import Advice, KafkaLogAdmin
from heliograph.stores.kafka.consumer import KafkaLogConsumer
from heliograph.stores.kafka.reader import KafkaLogReader
from heliograph.stores.kafka.writer import KafkaLogWriter

__all__ = ["Advice", "KafkaLogAdmin", "KafkaLogConsumer", "KafkaLogReader", "KafkaLogWriter"]
