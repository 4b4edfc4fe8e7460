"""Running one task: in this process, or in a worker process that may die."""
