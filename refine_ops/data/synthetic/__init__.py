"""Samples rendered from nothing but bundled fonts, photos and textures: marks, their references and their damage."""
