"""Any diffusers editing or inpainting pipeline as a refiner: one adapter, told by `presets/table.py` how to call it."""
