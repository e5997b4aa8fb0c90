"""Learned image codecs: each states its data path once."""
