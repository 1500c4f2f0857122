"""Doctor: is a model complete, is it the one it claims to be, and does it run here?"""
