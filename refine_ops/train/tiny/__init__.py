"""Training of the bundled tiny checkpoint from nothing but the synthetic source: VAE first, then transformer."""
