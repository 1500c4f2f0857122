"""Regions: what was found, weighed by rules, as an ordinary manifest."""
