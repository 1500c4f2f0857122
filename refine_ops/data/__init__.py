"""Data: the construction of Refine-30K style training samples, and the synthetic source."""
