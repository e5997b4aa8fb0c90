"""Frozen codecs of signals: latents of patches to symbols, symbols to files."""
