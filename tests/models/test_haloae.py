"""HaloAE against slow, explicit twins of the paper's equations and of models it builds on."""

import math

import pytest

torch = pytest.importorskip("torch")

from adfast.models import layers  # noqa: E402


def slow_halo_attention(q, k, v, rows, columns, block, halo, heads, scale, legacy_mask):
    """Pixel by pixel, key by key."""
    batch, _, height, width = q.shape
    out = torch.zeros_like(v)
    d, dv = q.shape[1] // heads, v.shape[1] // heads
    for b in range(batch):
        for head in range(heads):
            ours, values = slice(head * d, (head + 1) * d), slice(head * dv, (head + 1) * dv)
            for y in range(height):
                for x in range(width):
                    logits, read = [], []
                    top, left = y // block * block - halo, x // block * block - halo
                    for ky in range(top, top + block + 2 * halo):
                        for kx in range(left, left + block + 2 * halo):
                            inside = 0 <= ky < height and 0 <= kx < width
                            key = k[b, ours, ky, kx] if inside else torch.zeros(d)
                            value = v[b, values, ky, kx] if inside else torch.zeros(dv)
                            row = (ky - top) - y % block + block + 2 * halo - 1
                            column = (kx - left) - x % block + block + 2 * halo - 1
                            key = key + rows[row] + columns[column]
                            logit = scale * float(q[b, ours, y, x] @ key)
                            if inside == legacy_mask:
                                logit = -3.4028234663852886e38
                            logits.append(logit)
                            read.append(value)
                    largest = max(logits)
                    weights = [math.exp(logit - largest) for logit in logits]
                    weighted = [w * r for w, r in zip(weights, read, strict=True)]
                    out[b, values, y, x] = sum(weighted) / sum(weights)
    return out


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "batch, heads, d, dv, size, block, halo",
    [
        (2, 2, 3, 2, (6, 9), 3, 1),
        (1, 1, 4, 4, (9, 9), 3, 1),  # the block in the middle sees no border
        (1, 3, 2, 1, (4, 2), 2, 3),  # a halo wider than the map
        (1, 2, 1, 3, (5, 5), 5, 0),
    ],
)
def test_halo_attention(batch, heads, d, dv, size, block, halo, legacy):
    generator = torch.Generator().manual_seed(block)
    q, k, v = (torch.randn(batch, heads * c, *size, generator=generator) for c in (d, d, dv))
    count = 2 * (block + 2 * halo) - 1
    rows, columns = torch.randn(2, count, d, generator=generator)
    options = (block, halo, heads, 0.6, legacy)
    actual = layers.halo_attention(q, k, v, rows, columns, *options)
    expected = slow_halo_attention(q, k, v, rows, columns, *options)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_legacy_mask_averages_inside_and_sees_nothing_at_the_border():
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 4, 9, 9, generator=generator)
    rows, columns = torch.randn(2, 9, 2, generator=generator)
    out = layers.halo_attention(q, k, v, rows, columns, 3, 1, 2, 0.5, True)
    middle = v[:, :, 2:7, 2:7].mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(out[:, :, 3:6, 3:6], middle.expand(1, 4, 3, 3))
    out[:, :, 3:6, 3:6] = 0
    assert not out.any()


def test_halo_attention_refuses_blocks_that_do_not_tile():
    x = torch.zeros(1, 2, 8, 9)
    with pytest.raises(ValueError, match="8x9, expected sides divisible by the block of 3"):
        layers.halo_attention(x, x, x, x[0, 0, :, :2], x[0, 0, :, :2], 3, 1, 1, 1.0)
