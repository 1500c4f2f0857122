"""Model: presets, loading and the staged Qwen-Image-Edit refiner (needs torch)."""
