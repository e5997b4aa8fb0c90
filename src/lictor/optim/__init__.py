"""Optimizers and the table that names them."""

from lictor.optim.soap import SOAP

__all__ = ["SOAP"]
