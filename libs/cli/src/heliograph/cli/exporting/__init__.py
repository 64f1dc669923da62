"""A tenant's records as files: what `heliograph export` writes and `heliograph import` reads."""
