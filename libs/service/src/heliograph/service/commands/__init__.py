"""Commands of `heliograph` that need parts of a server: found by the entry points `heliograph.commands`."""
