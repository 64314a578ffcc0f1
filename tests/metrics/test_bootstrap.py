"""Curves, histograms and bootstrap intervals against exact figures of the very images drawn."""

import numpy as np
import pytest

from adfast import bootstrap, metrics
from adfast.curves import area, roc
from adfast.errors import ArgumentError, DataError

pytest.importorskip("scipy")


def some_scores(count=60, levels=10**6, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.4
    labels[:2] = [True, False]
    return labels, np.round((rng.random(count) + 0.3 * labels) * levels) / levels


def some_images(levels, count=12, seed=1):
    """Maps of odd sizes; a third of the images are good, the defects are of two classes."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        shape = (int(rng.integers(20, 50)), int(rng.integers(20, 50)))
        mask = np.zeros(shape, bool)
        if k % 3:
            mask[3:8, 4:11] = mask[15:17, 2:4] = True
        map_ = rng.gamma(2, 1, shape) + (1 + k % 2) * mask
        yield np.round(map_ * levels) / levels, mask, ("good", "hole", "dirt")[k % 3]


def collected(images):
    pixels = metrics.PixelScores()
    for map_, mask, label in images:
        pixels.add(map_, mask if label != "good" else None, label)
    return pixels


@pytest.mark.parametrize("levels", [2, 15, 10**6])
def test_weighted_image_figures_are_those_of_the_images_drawn(levels):
    labels, scores = some_scores(levels=levels)
    weights = np.concatenate(
        [np.ones((1, 60), np.float32), *bootstrap.Bootstrap(5, seed=3).draws(labels)]
    )
    figures = bootstrap.image_figures(labels, scores, weights)
    for row, times in enumerate(weights.astype(int)):
        drawn = np.repeat(labels, times), np.repeat(scores, times)
        assert drawn[0].sum() == labels.sum() and drawn[0].size == labels.size
        for name, metric in (
            ("image_auroc", metrics.image_auroc),
            ("image_ap", metrics.average_precision),
            ("f1_max", lambda *given: metrics.f1_max(*given)[0]),
        ):
            assert figures[name][row] == pytest.approx(metric(*drawn), abs=1e-12), name


@pytest.mark.parametrize("levels", [2, 40, 10**6])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_binned_pixel_figures_are_within_the_stated_error(levels, limit):
    with collected(some_images(levels)) as pixels:
        exact = pixels.compute(limit)
        binned = pixels.histograms()
    x, true, overlap = binned.curves()
    errors = binned.error(limit)
    # 1e-6: counts are summed in float32.
    assert abs(area(x, true)[0] - exact.auroc) <= errors[0] + 1e-6
    assert abs(area(x, overlap, limit)[0] - exact.aupro) <= errors[1] + 1e-6
    assert errors[0] < 1e-3 and errors[1] < 5e-3


def test_the_stated_error_is_not_generous_by_luck():
    with collected(some_images(10**6)) as pixels:
        exact = pixels.compute()
        coarse = pixels.histograms(bins=16)
    x, true, overlap = coarse.curves()
    off = abs(area(x, true)[0] - exact.auroc), abs(area(x, overlap, 0.3)[0] - exact.aupro)
    for wrong, bound in zip(off, coarse.error(0.3), strict=True):
        assert 1e-6 < wrong <= bound


def test_drawn_pixel_figures_are_those_of_the_images_drawn():
    images = list(some_images(10**6))
    with collected(images) as pixels:
        binned = pixels.histograms()
    (weights,) = bootstrap.Bootstrap(4, seed=2).draws(binned.regions > 0)
    x, true, overlap = binned.curves(weights)
    for row, times in enumerate(weights.astype(int)):
        drawn = [image for image, n in zip(images, times, strict=True) for _ in range(n)]
        with collected(drawn) as pixels:
            exact = pixels.compute()
        assert area(x, true)[row] == pytest.approx(exact.auroc, abs=1e-3)
        assert area(x, overlap, 0.3)[row] == pytest.approx(exact.aupro, abs=3e-3)


@pytest.mark.parametrize("threshold", [0.0, 1.5, 2.0, 99.0])
def test_a_threshold_asked_for_is_an_exact_point_of_the_curves(threshold):
    images = list(some_images(2))  # steps of a half: many pixels equal the threshold
    with collected(images) as pixels:
        binned = pixels.histograms([threshold])
    at = int(np.flatnonzero(binned.thresholds == np.float32(threshold))[0]) + 1
    x, true, _ = binned.curves()
    maps = np.concatenate([map_.ravel() for map_, _, _ in images])
    masks = np.concatenate([mask.ravel() for _, mask, _ in images])
    assert x[0, at] == pytest.approx((maps[~masks] > threshold).mean(), abs=1e-9)
    assert true[0, at] == pytest.approx((maps[masks] > threshold).mean(), abs=1e-9)


@pytest.mark.parametrize("chunk", [37, 2**22])
def test_each_class_is_measured_against_all_good_images(chunk, monkeypatch):
    monkeypatch.setattr(metrics, "_CHUNK", chunk)
    images = list(some_images(40))
    with collected(images) as pixels:
        everything, classes = pixels.compute_classes()
        binned = pixels.histograms()
    assert sorted(classes) == ["dirt", "hole"] and everything.images == 12
    for label, found in classes.items():
        own = [image for image in images if image[2] in ("good", label)]
        with collected(own) as pixels:
            assert found == pixels.compute()
        chosen = binned.choose({"good", label})
        x, true, _ = chosen.curves()
        assert len(chosen.labels) == 8
        assert area(x, true)[0] == pytest.approx(found.auroc, abs=1e-3)


def test_intervals_repeat_and_hold_the_figure():
    labels, scores = some_scores(200)
    how = bootstrap.Bootstrap(300, seed=5)
    found = bootstrap.image_intervals(labels, scores, how)
    assert found == bootstrap.image_intervals(labels, scores, how)
    assert found != bootstrap.image_intervals(labels, scores, bootstrap.Bootstrap(300, seed=6))
    low, high = found["image_auroc"]
    assert low < metrics.image_auroc(labels, scores) < high
    narrow = bootstrap.image_intervals(labels, scores, bootstrap.Bootstrap(300, 5, level=0.5))
    assert low < narrow["image_auroc"][0] < narrow["image_auroc"][1] < high
    assert bootstrap.image_intervals(labels, scores, bootstrap.Bootstrap(0)) == {}
    with collected(some_images(10**6)) as pixels:
        binned = pixels.histograms()
        exact = pixels.compute()
    found = bootstrap.pixel_intervals(binned, 0.3, how)
    assert found["pixel_auroc"][0] < exact.auroc < found["pixel_auroc"][1]
    assert found["aupro"][0] < exact.aupro < found["aupro"][1]


def test_intervals_cover_the_true_figure_as_often_as_they_say():
    rng = np.random.default_rng(7)
    # Two unit normals a standard deviation apart: AUROC = Phi(1 / sqrt 2).
    truth, held = 0.7602499389, 0
    labels = np.arange(120) < 50
    for k in range(200):
        scores = rng.normal(size=120) + labels
        low, high = bootstrap.image_intervals(labels, scores, bootstrap.Bootstrap(200, k))[
            "image_auroc"
        ]
        held += low <= truth <= high
    assert 178 <= held <= 199  # 95 % of 200 is 190, its standard deviation 3


def test_the_roc_curve_joins_equal_scores():
    labels = np.array([True, False, True, False])
    points = roc(labels, np.array([3.0, 2.0, 2.0, 1.0]))
    assert points.tolist() == [[0, 0], [0, 0.5], [0.5, 1], [1, 1]]
    assert area(points[None, :, 0], points[None, :, 1])[0] == 0.875


def test_bad_arguments():
    for given in ({"resamples": -1}, {"level": 0}, {"level": 1.0}):
        with pytest.raises(ArgumentError, match=r"\[bootstrap\]"):
            bootstrap.Bootstrap(**given)
    with metrics.PixelScores() as pixels:
        pixels.add(np.ones((2, 2)), None)
        with pytest.raises(DataError, match="both normal and defect pixels"):
            pixels.histograms()
