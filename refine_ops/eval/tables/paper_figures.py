"""Table 1 of RefineAnything (arXiv 2604.06870), as published.

On other cases than ours: to stand beside our rows, never to be compared with them.

The bodies of its Tables 2 and 3 are not in the text at hand and are printed as 'not available'.
"""

from typing import Final

TABLE_1_COLUMNS: Final = ("mse", "lpips_alex", "vgg", "dino", "clip", "ssim", "mse_bg", "lpips_bg", "ssim_bg")
TABLE_1: Final[dict[str, tuple[str, ...]]] = {
    "Gemini 2.5 flash image": ("0.049", "0.250", "0.592", "0.717", "0.817", "0.423", "0.201", "0.103", "0.7662"),
    "Gemini 3 pro": ("0.031", "0.178", "0.431", "0.771", "0.855", "0.510", "0.029", "0.052", "0.9061"),
    "GPT-4o": ("0.083", "0.370", "0.918", "0.620", "0.801", "0.302", "0.815", "0.309", "0.6001"),
    "OmniGen2": ("0.155", "0.602", "1.691", "0.384", "0.717", "0.219", "2.094", "0.624", "0.4300"),
    "BAGEL": ("0.045", "0.253", "0.611", "0.682", "0.803", "0.494", "0.033", "0.046", "0.9360"),
    "Kontext": ("0.040", "0.264", "0.540", "0.685", "0.785", "0.538", "0.011", "0.019", "0.9660"),
    "Qwen-Edit": ("0.049", "0.287", "0.676", "0.675", "0.807", "0.436", "0.454", "0.148", "0.7530"),
    "RefineAnything": ("0.020", "0.155", "0.401", "0.793", "0.885", "0.591", "0.000", "0.000", "0.9997"),
}
PAPER_NOTE: Final = (
    "Rows marked * are published figures (arXiv 2604.06870, Table 1) on the paper's 31 reference-based cases, which "
    "are not public. Its MSE_bg exceeds 1 in places, so its unit is not ours ([0, 1] pixels); its LPIPS network and "
    "VGG distance are not stated."
)
