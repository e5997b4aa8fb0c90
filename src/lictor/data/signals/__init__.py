"""Signals of any kind, and their patches."""
