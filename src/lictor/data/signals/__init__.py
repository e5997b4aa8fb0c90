"""Signals of any kind: from files to arrays and back, in patches, drawn for training."""
