"""Rank: one process of a node that refines what it takes from the shared counter."""
