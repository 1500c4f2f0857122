"""Promotion: a candidate adapter against the incumbent on held-out cases."""
