"""The Python SDK of Heliograph."""
