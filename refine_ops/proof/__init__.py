"""Proof: nothing but the allowed change differs, judged on the bytes to publish."""
