"""Content-addressed artifacts: what stages exchange."""
