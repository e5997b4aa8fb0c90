"""Probability models of latents: rates while training, integer tables when frozen."""
