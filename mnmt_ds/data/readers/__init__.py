"""One reader a format, each a small function that yields numbered rows."""
