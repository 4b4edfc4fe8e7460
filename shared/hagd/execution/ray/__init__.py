"""Tasks on a Ray cluster: a pool of actors that is made when work comes and goes when none does."""
