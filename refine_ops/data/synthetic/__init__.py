"""Samples rendered from nothing but bundled fonts, photos and textures: marks, their references and their damage.

library = assets.library("train")
sample = render(7, Recipe(seed=1, size=(128, 128)), library)
"""

from refine_ops.data.synthetic.assets import Library, library
from refine_ops.data.synthetic.render import Recipe, SyntheticSample, render

__all__ = ["Library", "Recipe", "SyntheticSample", "library", "render"]
