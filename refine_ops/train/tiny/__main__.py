"""Train the tiny checkpoint: `python -m refine_ops.train.tiny --out DIR --minutes N [--assets FOLDER ...]`.

Tokenizer and text encoder (seeded), then the VAE for a quarter of the time, then the transformer. `--resume DIR` goes
on from the bfloat16 weights of an earlier run (its VAE is kept, the optimiser is warmed up anew). Folders of fonts and
photos given with `--assets` are drawn from in addition to the bundled ones.
"""

import argparse
import logging
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

from refine_ops.data.synthetic import Recipe
from refine_ops.data.synthetic.prompts import all_prompts
from refine_ops.model.network import vae as one_frame
from refine_ops.train.tiny import assemble, vae
from refine_ops.train.tiny.run import Schedule, train
from refine_ops.train.tiny.samples import Mix

VAE_SHARE = 0.25


def main() -> None:
    """Parse, train, write a complete pipeline folder to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pipeline")
    parser.add_argument("--minutes", type=float, required=True, help="in all")
    parser.add_argument("--assets", type=Path, nargs="*", default=[], help="folders with more fonts and photos")
    parser.add_argument("--resume", type=Path, help="folder of an earlier run")
    parser.add_argument("--window", type=int, default=64, help="side of the training window in px")
    parser.add_argument("--poses", type=float, nargs=2, default=(0.05, 0.4), help="bound of the pose, first and last")
    parser.add_argument("--rate", type=float, default=6e-4, help="peak learning rate of the transformer")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--no-compile", action="store_true", help="torch.compile pays off after about ten minutes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folders, recipe = tuple(options.assets), Recipe(seed=options.seed, strength=(0.2, 1.0))
    if options.resume is None:
        transformer = assemble.new_transformer(options.seed)
        coder = vae.train(options.minutes * VAE_SHARE, recipe, folders, device, options.seed)
        minutes = options.minutes * (1 - VAE_SHARE)
    else:
        transformer = QwenImageTransformer2DModel.from_pretrained(
            options.resume / "transformer", torch_dtype=torch.float32
        )
        coder = AutoencoderKLQwenImage.from_pretrained(options.resume / "vae", torch_dtype=torch.float32)
        one_frame.as_one_frame(coder)
        minutes = options.minutes
    schedule = Schedule(
        minutes=minutes, mix=Mix(recipe, window=options.window), peak_rate=options.rate, poses=tuple(options.poses),
        seed=options.seed, compile=not options.no_compile, folders=folders,
    )  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    transformer = train(transformer, coder, schedule, options.out, device)
    processor, text_encoder = assemble.new_text_parts(all_prompts())
    assemble.save(options.out, processor, text_encoder, one_frame.as_video(coder.cpu()), transformer.cpu())


if __name__ == "__main__":
    main()
