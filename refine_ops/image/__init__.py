"""Image: one file in, the same file out with only the allowed change -- read, focus, align, paste, verify, write."""
