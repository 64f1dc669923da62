"""Decisions about a fleet of edges: how many, which one goes, and how clients are spread over them."""
