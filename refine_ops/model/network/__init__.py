"""Networks: the transformer, the VAE and fp8 linears, equal to diffusers' and faster."""
