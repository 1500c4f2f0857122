"""Train: latent cache, Boundary Consistency Loss, LoRA trainer, adapter registry (needs torch)."""
