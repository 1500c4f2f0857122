"""Cases: what is evaluated, and how case sets are made."""
