"""Promotion: a new adapter against the incumbent on held-out cases."""
