"""The WebSocket and HTTP front of Heliograph."""
