"""Structural similarity of images or feature maps, for losses."""

from __future__ import annotations

import torch
from torch import Tensor

from adfast.models.layers import gaussian_kernel


def ssim_map(
    a: Tensor, b: Tensor, window: int = 11, sigma: float = 1.5, data_range: float = 1.0
) -> Tensor:
    """Compare two images channel by channel around every pixel (Wang et al., 2004, eq. 13-16).

    At the border the Gaussian window is cut off and its weights again sum to 1 (ours), so that the
    map has the size of the images, however small they are. Computed in float32.

    Args:
        a: [B, C, H, W].
        b: [B, C, H, W].
        window: side of the window, odd.
        sigma: of its Gaussian weights, in pixels.
        data_range: largest minus smallest possible value.

    Returns:
        [B, C, H, W], float32: 1 where equal, -1..1.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"[ssim_map] window is {window}, expected an odd number of at least 1")
    kernel = gaussian_kernel(sigma, window // 2).to(a.device)

    def bands(side: int) -> Tensor:
        """Return what blurs a line of pixels [side, side], each row summing to 1."""
        steps = torch.arange(side, device=a.device)
        offsets = steps - steps[:, None] + window // 2
        inside = (offsets >= 0) & (offsets < window)
        matrix = torch.where(inside, kernel[offsets.clamp(0, window - 1)], 0.0)
        return matrix / matrix.sum(dim=1, keepdim=True)

    # Products, as convolutions of one channel are many times slower.
    down, across = bands(a.shape[2]), bands(a.shape[3]).T

    def blur(x: Tensor) -> Tensor:
        return down @ (x @ across)

    with torch.autocast(a.device.type, enabled=False):
        a, b = a.float(), b.float()
        mean_a, mean_b = blur(a), blur(b)
        # E[x^2] - E[x]^2 cancels where |mean| >> std, so x is first brought close to zero.
        centre_a, centre_b = (x.mean(dim=(2, 3), keepdim=True).detach() for x in (a, b))
        a, b = a - centre_a, b - centre_b
        offset_a, offset_b = mean_a - centre_a, mean_b - centre_b
        variance_a = blur(a.square()) - offset_a.square()
        variance_b = blur(b.square()) - offset_b.square()
        covariance = blur(a * b) - offset_a * offset_b
        c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
        luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
        return luminance * (2 * covariance + c2) / (variance_a + variance_b + c2)
