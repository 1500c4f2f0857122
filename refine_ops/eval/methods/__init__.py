"""Methods: what refines the cases."""
