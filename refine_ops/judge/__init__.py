"""Judge: is a region better or worse than it was?"""
