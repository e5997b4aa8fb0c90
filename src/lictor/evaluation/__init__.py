"""Measuring codecs on pictures: rate, distortion, time."""
