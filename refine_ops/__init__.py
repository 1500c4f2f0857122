"""Region-specific image refinement over manifests of any size, with proof that every other pixel is unchanged."""

__version__ = "0.1.0"
