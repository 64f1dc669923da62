"""Agents at work on real Kafka and Redis, for `make demo`; and whether what they were told is what the log holds.

`agents.py` is the part to read first: what an agent on the SDK looks like.
"""
