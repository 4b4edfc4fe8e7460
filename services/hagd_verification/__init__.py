"""Stage 4: verifies a circuit in the real model."""
