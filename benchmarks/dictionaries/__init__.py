"""Training dictionaries beside eai-sparsify, which runs from an environment of its own (`make bench-dictionaries`)."""
