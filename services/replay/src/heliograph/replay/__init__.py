"""History of sessions, read from the log."""
