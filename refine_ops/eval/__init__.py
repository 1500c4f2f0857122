"""Eval: RefineEval cases, metrics, VLM grades, statistics and tables."""
