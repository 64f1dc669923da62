"""The ports in memory: for unit tests, and for a whole system in one process."""
