"""Structural similarity of images or feature maps, for losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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

    def blur(x: Tensor) -> Tensor:
        planes = x.flatten(0, 1)[:, None]
        planes = F.conv2d(planes, kernel.view(1, 1, -1, 1), padding=(window // 2, 0))
        planes = F.conv2d(planes, kernel.view(1, 1, 1, -1), padding=(0, window // 2))
        return planes[:, 0].unflatten(0, x.shape[:2])

    with torch.autocast(a.device.type, enabled=False):
        a, b = a.float(), b.float()
        weight = blur(torch.ones_like(a[:1, :1]))
        mean_a, mean_b = blur(a) / weight, blur(b) / weight
        # E[x^2] - E[x]^2 cancels where |mean| >> std, so x is first brought close to zero.
        centre_a, centre_b = (x.mean(dim=(2, 3), keepdim=True).detach() for x in (a, b))
        a, b = a - centre_a, b - centre_b
        offset_a, offset_b = mean_a - centre_a, mean_b - centre_b
        variance_a = blur(a.square()) / weight - offset_a.square()
        variance_b = blur(b.square()) / weight - offset_b.square()
        covariance = blur(a * b) / weight - offset_a * offset_b
        c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
        luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
        return luminance * (2 * covariance + c2) / (variance_a + variance_b + c2)
