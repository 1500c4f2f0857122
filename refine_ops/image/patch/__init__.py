"""Patch: what the model made of a crop, before it is pasted: tiles joined, position and tone undone, what to keep."""
