"""Measuring codecs of signals: sounds, volumes, fields, arrays, and pictures among them."""
