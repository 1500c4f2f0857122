"""Building: stages over many sources, resumable, in parts."""
