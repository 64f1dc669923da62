"""Heliograph's formats: frames, CloudEvents headers, close codes."""
