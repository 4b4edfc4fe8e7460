"""The stage contract, and the composition of stages into runs."""
