"""Annotations: what people drew in other tools becomes a manifest, and a manifest becomes what they correct."""
