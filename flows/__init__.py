"""Prefect flows and the command line: thin tasks over `refine_ops`."""
