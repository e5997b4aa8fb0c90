"""Stand-ins for rounding: how far training with one is from coding, and how well it descends."""
