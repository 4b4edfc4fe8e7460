"""Local attribution graphs beside circuit-tracer, which runs from an environment of its own (`make bench-attribution`)."""
