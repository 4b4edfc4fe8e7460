"""Stage 2: the attribution graph of a task and its hierarchy."""
