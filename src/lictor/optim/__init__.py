"""Optimizers and the table that names them."""
