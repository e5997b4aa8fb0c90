"""Integers to bytes and back: tables, the rANS coder, the symbol stream and the file container."""
