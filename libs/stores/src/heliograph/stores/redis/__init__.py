"""Redis behind the ports: `metadata/` on redis-py, the live path on connections of its own."""
