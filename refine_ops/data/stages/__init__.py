"""Stages: the steps from a source to a training sample (section 4)."""
