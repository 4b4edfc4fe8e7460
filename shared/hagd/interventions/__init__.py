"""Interventions in the real model: what runs live, what is replaced, and by whose values."""
