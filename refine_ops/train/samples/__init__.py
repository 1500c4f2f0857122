"""Samples: from a data set's rows to batches on the device."""
