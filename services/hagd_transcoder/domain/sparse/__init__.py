"""Training steps with gradients by hand: over what a token keeps, or over whole matrices where that is faster."""
