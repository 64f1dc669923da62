"""The log on Apache Kafka, by confluent-kafka (librdkafka)."""

from heliograph.stores.kafka.writer import KafkaLogWriter

__all__ = ["KafkaLogWriter"]
