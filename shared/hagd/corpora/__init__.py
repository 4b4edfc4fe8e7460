"""Text to train dictionaries on: where it comes from, and tokens cut into windows."""
