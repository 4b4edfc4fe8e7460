"""Stages for hagd from outside: Leiden communities in place of the spectral hierarchy, top-k in place of the search."""
