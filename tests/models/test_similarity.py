"""SSIM and GMS against slow twins that go pixel by pixel."""

import math

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

from adfast.models.layers import calibrate_map, gms_map, window_gather  # noqa: E402
from adfast.models.similarity import ssim_map  # noqa: E402


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def slow_ssim(a, b, window, sigma, data_range):
    height, width = a.shape
    result = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            inside, weights = [], []
            for dy in range(-(window // 2), window // 2 + 1):
                for dx in range(-(window // 2), window // 2 + 1):
                    if 0 <= y + dy < height and 0 <= x + dx < width:
                        inside.append((a[y + dy, x + dx], b[y + dy, x + dx]))
                        weights.append(math.exp(-(dx * dx + dy * dy) / (2 * sigma**2)))
            weights = np.array(weights) / sum(weights)
            p, q = np.array(inside).T
            mean_p, mean_q = weights @ p, weights @ q
            var_p, var_q = weights @ (p - mean_p) ** 2, weights @ (q - mean_q) ** 2
            covariance = weights @ ((p - mean_p) * (q - mean_q))
            c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
            luminance = (2 * mean_p * mean_q + c1) / (mean_p**2 + mean_q**2 + c1)
            result[y, x] = luminance * (2 * covariance + c2) / (var_p + var_q + c2)
    return result


@pytest.mark.parametrize(
    "size, window, sigma, data_range",
    [((16, 16), 11, 1.5, 1.0), ((5, 9), 11, 1.5, 1.0), ((7, 6), 3, 0.8, 255.0), ((1, 1), 1, 1, 1)],
)
def test_ssim(size, window, sigma, data_range):
    a, b = (data_range * rand(2, 3, *size, seed=seed) for seed in (0, 1))
    actual = ssim_map(a, b, window, sigma, data_range)
    assert actual.shape == a.shape
    for n in range(2):
        for c in range(3):
            planes = a[n, c].double().numpy(), b[n, c].double().numpy()
            expected = slow_ssim(*planes, window, sigma, data_range)
            np.testing.assert_allclose(actual[n, c].numpy(), expected, atol=2e-5)


def test_ssim_far_from_zero_and_of_itself():
    a = rand(1, 2, 12, 12)
    torch.testing.assert_close(ssim_map(a, a), torch.ones_like(a))
    far, near = a + 1000, rand(1, 2, 12, 12, seed=1) + 1000
    expected = slow_ssim(far[0, 0].double().numpy(), near[0, 0].double().numpy(), 11, 1.5, 1.0)
    # The values themselves are rounded to 6e-5 there.
    np.testing.assert_allclose(ssim_map(far, near)[0, 0].numpy(), expected, atol=1e-2)


def test_ssim_stays_in_float32_under_autocast_and_refuses_an_even_window():
    a, b = rand(1, 1, 8, 8), rand(1, 1, 8, 8, seed=1)
    expected = ssim_map(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ssim_map(a, b), expected)
    with pytest.raises(ValueError, match="window is 4"):
        ssim_map(a, b, 4)


def slow_magnitude(x):
    height, width = x.shape
    result = np.zeros((height, width))
    for i in range(height):
        for j in range(width):

            def at(di, dj, i=i, j=j):
                return x[min(max(i + di, 0), height - 1), min(max(j + dj, 0), width - 1)]

            across = sum(at(d, 1) - at(d, -1) for d in (-1, 0, 1)) / 3
            down = sum(at(1, d) - at(-1, d) for d in (-1, 0, 1)) / 3
            result[i, j] = math.hypot(across, down)
    return result


@pytest.mark.parametrize("size", [(5, 7), (1, 3), (2, 1), (16, 16)])
def test_gms(size):
    a, b, c = rand(2, 3, *size), rand(2, 3, *size, seed=1), 0.0026
    actual = gms_map(a, b, c)
    assert actual.shape == (2, 1, *size)
    for n in range(2):
        terms = []
        for p, q in zip(a[n].double().numpy(), b[n].double().numpy(), strict=True):
            g, h = slow_magnitude(p), slow_magnitude(q)
            terms.append((2 * g * h + c) / (g**2 + h**2 + c))
        np.testing.assert_allclose(actual[n, 0].numpy(), 1 - sum(terms) / 3, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gms_map(a, b, c), actual)


def test_gms_of_flat_images_has_a_gradient():
    a = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    value = gms_map(a, rand(1, 3, 4, 4), 0.0026).sum()
    value.backward()
    assert a.grad.isfinite().all()


def test_window_gather_and_calibrate_map():
    x = rand(3, 5, 2)
    index = torch.tensor([[4, 0, 0], [1, 2, 3]])
    y = window_gather(x, index)
    assert y.shape == (6, 3, 2)
    for n in range(3):
        for w in range(2):
            for j in range(3):
                assert torch.equal(y[2 * n + w, j], x[n, index[w, j]])
    a, mean = rand(2, 1, 2, 2), rand(1, 1, 2, 2, seed=1)
    for n in range(2):
        assert torch.equal(calibrate_map(a, mean, "square")[n], (a[n] - mean[0]) ** 2)
        assert torch.equal(calibrate_map(a, mean, "absolute")[n], (a[n] - mean[0]).abs())
    with pytest.raises(ValueError, match="mode is 'cube'"):
        calibrate_map(a, mean, "cube")
