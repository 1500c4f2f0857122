"""Images in and out, every pixel accounted for: read, focus, align, paste, write, verify."""
