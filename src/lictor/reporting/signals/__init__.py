"""What people look at of signals: spectrograms and players, slices, maps."""
