"""Measured claims: each command prints a table with floors and controls and writes JSON under `build/`."""
