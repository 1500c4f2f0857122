"""Eval: RefineEval cases, metrics, judge, statistics and tables."""
