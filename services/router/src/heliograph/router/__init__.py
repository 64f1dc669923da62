"""Reads the log and reconciles it with the live path."""
