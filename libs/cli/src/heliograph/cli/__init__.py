"""Realtime messaging for AI agents: the SDK and the `heliograph` command."""
