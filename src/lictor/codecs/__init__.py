"""Frozen codecs: what makes files and reads them."""
