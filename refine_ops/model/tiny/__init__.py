"""The bundled `tiny` checkpoint: its weights, its recipe and its card."""
