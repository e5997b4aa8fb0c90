"""STDET: modes of weights, found while training, and what is embedded in them."""
