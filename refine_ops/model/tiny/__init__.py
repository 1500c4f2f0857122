"""The bundled checkpoint: a Qwen-Image-Edit of the the 20 B one's classes, small enough for a CPU.

`WEIGHTS` is a folder that `QwenImageEditPlusPipeline.from_pretrained` loads. The constants are the sizes it was trained
for; the stock pipeline's own sizes (384^2 for the text encoder, 1024^2 for the VAE) do not fit it.
"""

from pathlib import Path
from typing import Final

WEIGHTS: Final[Path] = Path(__file__).parent / "weights"
GRID_PX: Final = 8
"""One transformer token: 2 x 2 latents of 4 px."""
VAE_PIXELS: Final = 128 * 128
"""Area of each condition image and of the target: the focus budget."""
VLM_PIXELS: Final = 56 * 56
"""Area of each image in the text encoder; sides are multiples of `VLM_GRID_PX`."""
VLM_GRID_PX: Final = 28
STEPS: Final = 1
"""Trained for one step from noise; more steps add up its errors (see the card)."""
TRUE_CFG_SCALE: Final = 1.0
"""Guidance is off: the model was trained to need none."""
