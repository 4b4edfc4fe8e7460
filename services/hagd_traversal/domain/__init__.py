"""The search for a circuit: scores, causal group tests, and the choice of size."""
