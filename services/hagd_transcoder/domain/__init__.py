"""Pure mathematics of the first stage: base models and dictionaries."""
