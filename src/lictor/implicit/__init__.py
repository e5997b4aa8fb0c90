"""Networks of signals: a small latent, a shared network, values at coordinates."""
