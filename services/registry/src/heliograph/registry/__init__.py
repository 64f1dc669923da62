"""Who is connected where."""
