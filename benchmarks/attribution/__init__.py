"""Graphs of one prompt beside circuit-tracer, which runs from an environment of its own (`make bench-attribution`)."""
