"""Quantization while a model learns: what stands for rounding."""
