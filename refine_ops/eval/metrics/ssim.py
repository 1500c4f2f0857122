"""SSIM as Wang et al. (2004) define it: Gaussian window of sigma 1.5, population covariance, K1 0.01, K2 0.03.

scikit-image gives the same with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=...`; its
defaults, and those of other libraries, differ by more than methods do.
"""

import torch

WINDOW = 11
RADIUS = WINDOW // 2


def ssim_map(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """SSIM of every window that lies wholly in the image: `(n, 3, h, w)` in [0, 1] to `(n, h - 10, w - 10)`.

    The mean over channels; `map[:, y, x]` belongs to the window centred at pixel (x + 5, y + 5). Exactly 1 where the
    two windows are equal. Needs h, w >= 11.
    """
    stacked = torch.cat([a, b, a * a, b * b, a * b])
    mean_a, mean_b, square_a, square_b, product = _blur(stacked).chunk(5)
    var_a, var_b = square_a - mean_a * mean_a, square_b - mean_b * mean_b
    covariance = product - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a * mean_a + mean_b * mean_b + c1) * (var_a + var_b + c2)
    )
    return similarity.mean(1)


def change_map(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`ssim_map` where most of the image is equal: exactly 1 in equal windows, computed around the changes alone."""
    n, _, h, w = a.shape
    similarity = torch.ones((n, h - 2 * RADIUS, w - 2 * RADIUS), dtype=a.dtype, device=a.device)
    changed = (a != b).any(1).any(0)
    if not changed.any():
        return similarity
    rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
    y0, x0 = (max(0, int(at[0]) - 2 * RADIUS) for at in (rows, columns))
    y1, x1 = min(h, int(rows[-1]) + WINDOW), min(w, int(columns[-1]) + WINDOW)
    y0, x0 = min(y0, y1 - WINDOW), min(x0, x1 - WINDOW)
    part = ssim_map(a[:, :, y0:y1, x0:x1], b[:, :, y0:y1, x0:x1])
    similarity[:, y0 : y1 - 2 * RADIUS, x0 : x1 - 2 * RADIUS] = part
    return similarity


def whole_windows(inside: torch.Tensor) -> torch.Tensor:
    """Which windows of `ssim_map` lie wholly in `inside (n, h, w)` bool: bool `(n, h - 10, w - 10)`."""
    outside = (~inside).to(torch.float32)[:, None]
    return torch.nn.functional.max_pool2d(outside, WINDOW, stride=1)[:, 0] == 0


def _blur(x: torch.Tensor) -> torch.Tensor:
    """Separable 11-tap Gaussian of sigma 1.5 over the windows that fit."""
    at = torch.arange(-RADIUS, RADIUS + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (at / 1.5) ** 2)
    kernel = kernel / kernel.sum()
    n, c, h, w = x.shape
    flat = x.reshape(n * c, 1, h, w)
    flat = torch.nn.functional.conv2d(flat, kernel.view(1, 1, 1, -1))
    flat = torch.nn.functional.conv2d(flat, kernel.view(1, 1, -1, 1))
    return flat.reshape(n, c, h - 2 * RADIUS, w - 2 * RADIUS)
