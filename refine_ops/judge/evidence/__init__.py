"""Evidence: numbers of one region before and after, without torch."""
