"""Region-specific image refinement over manifests of any size, with proof that every other pixel is unchanged."""

__version__ = "0.2.0"
__all__ = ["PIXEL_VERSION", "Refined", "__version__", "refine"]

PIXEL_VERSION = 3
"""Of the code that decides pixels: raised by every change after which the same item, weights and settings give other
ones, and by nothing else (`tests/test_pixels.py` notices)."""

TYPE_CHECKING = False  # as `typing` has it; this module imports nothing, so that planning and reports stay lean
if TYPE_CHECKING:
    from refine_ops.single.call import refine as refine
    from refine_ops.single.result import Refined as Refined


def __getattr__(name: str) -> object:
    """`refine` and its result, loaded when they are first asked for."""
    if name not in ("Refined", "refine"):
        raise AttributeError(f"module 'refine_ops' has no attribute {name!r}")
    from refine_ops.single import call

    return getattr(call, name)
