"""Stage 3: searches the circuit by causal tests down the hierarchy."""
