"""Gates: the cases they are calibrated on, and what they do to an evaluation."""
