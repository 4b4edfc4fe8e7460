"""Real servers for tests and benchmarks: obtained once by `make servers`, started on free loopback ports, no Docker."""
