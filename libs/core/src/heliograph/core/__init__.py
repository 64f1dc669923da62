"""Heliograph's decisions: pure functions and values, no I/O."""
