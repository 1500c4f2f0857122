"""`refine-ops mark`: a page on this machine to draw regions on, saved as a manifest as one goes."""
