"""Building blocks of the transforms and of the entropy networks."""
