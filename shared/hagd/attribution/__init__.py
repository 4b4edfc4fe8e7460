"""The attribution graph of one prompt: exact direct effects under frozen attention, norms and gates, and their split
by attention heads. Fast because only its structure is computed (`descent.py`)."""
