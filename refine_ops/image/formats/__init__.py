"""Formats: one codec per image format."""
