"""Causal language models as plain weights: one residual algebra for every supported architecture."""
