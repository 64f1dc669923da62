"""Heliograph's ports to Redis and Kafka, and their implementations."""
