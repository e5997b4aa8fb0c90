"""Numbers about rate-distortion curves; nothing here knows a codec."""
