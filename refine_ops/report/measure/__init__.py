"""Measure: an item before and after, from published bytes."""
