"""Metrics: one number of one output."""
