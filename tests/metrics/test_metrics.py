"""Metrics against scikit-learn and against slow definitions, one threshold at a time."""

import numpy as np
import pytest

from adfast import metrics
from adfast.errors import DataError


def slow_aupro(maps, masks, limit):
    """Follow the definition: every threshold, every region's overlap, trapezoids up to `limit`."""
    ndimage = pytest.importorskip("scipy.ndimage")
    regions = []
    for map_, mask in zip(maps, masks, strict=True):
        numbers, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [map_[numbers == k + 1] for k in range(count)]
    normal = np.concatenate([m[~k] for m, k in zip(maps, masks, strict=True)])
    thresholds = np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]
    fpr = [0.0] + [float((normal >= t).mean()) for t in thresholds]
    pro = [0.0] + [float(np.mean([(r >= t).mean() for r in regions])) for t in thresholds]
    area = 0.0
    for f0, f1, p0, p1 in zip(fpr, fpr[1:], pro, pro[1:], strict=False):
        if f0 >= limit:
            break
        if f1 > limit:
            p1 = p0 + (p1 - p0) * (limit - f0) / (f1 - f0)
            f1 = limit
        area += (f1 - f0) * (p0 + p1) / 2
    return area / limit


def some_maps(seed, levels):
    """Odd-sized maps with blobs of defects; `levels` forces ties."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for shape in ((17, 23), (1, 31), (9, 9), (40, 3)):
        mask = rng.random(shape) < 0.08
        mask[: shape[0] // 3, : shape[1] // 4] = True
        map_ = rng.random(shape) + 0.4 * mask
        maps.append(np.round(map_ * levels) / levels)
        masks.append(mask)
    masks[-1][:] = False
    return [m.astype(np.float32) for m in maps], masks


@pytest.mark.parametrize("levels", [3, 20, 10**6])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_follows_its_definition(levels, limit):
    pytest.importorskip("scipy")
    maps, masks = some_maps(levels, levels)
    with metrics.PixelScores() as pixels:
        for map_, mask in zip(maps, masks, strict=True):
            pixels.add(map_, mask)
        result = pixels.compute(limit)
    assert result.aupro == pytest.approx(slow_aupro(maps, masks, limit), abs=1e-12)
    assert result.images == 4
    assert result.normal_pixels + result.defect_pixels == sum(m.size for m in maps)


@pytest.mark.parametrize("levels", [2, 30, 10**6])
def test_areas_agree_with_scikit_learn(levels):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(levels)
    labels = rng.random(501) < 0.2
    scores = np.round((rng.random(501) + 0.3 * labels) * levels) / levels
    assert metrics.image_auroc(labels, scores) == pytest.approx(
        sklearn.roc_auc_score(labels, scores), abs=1e-12
    )
    assert metrics.average_precision(labels, scores) == pytest.approx(
        sklearn.average_precision_score(labels, scores), abs=1e-12
    )
    precision, recall, _ = sklearn.precision_recall_curve(labels, scores)
    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    value, threshold = metrics.f1_max(labels, scores)
    assert value == pytest.approx(best, abs=1e-12)
    assert sklearn.f1_score(labels, scores >= threshold) == pytest.approx(value, abs=1e-12)


def test_pixel_auroc_agrees_with_scikit_learn_through_the_temporary_file(monkeypatch):
    pytest.importorskip("scipy")
    sklearn = pytest.importorskip("sklearn.metrics")
    monkeypatch.setattr(metrics, "SPOOL_BYTES", 100)
    monkeypatch.setattr(metrics, "_CHUNK", 37)
    maps, masks = some_maps(5, 50)
    with metrics.PixelScores() as pixels:
        for map_, mask in zip(maps, masks, strict=True):
            pixels.add(map_, mask if mask.any() else None)
        auroc = pixels.compute().auroc
    flat = [np.concatenate([a.ravel() for a in arrays]) for arrays in (masks, maps)]
    assert auroc == pytest.approx(sklearn.roc_auc_score(*flat), abs=1e-12)


def test_an_auroc_below_one_half_is_not_turned_over():
    assert metrics.image_auroc([False, False, True, True], [3.0, 4.0, 1.0, 2.0]) == 0.0
    assert metrics.image_auroc([False, True], [1.0, 1.0]) == 0.5


@pytest.mark.parametrize(
    ("labels", "scores", "word"),
    [
        ([False, False], [1.0, 2.0], "all 2 images are good"),
        ([True, True, True], [1.0, 2.0, 3.0], "all 3 images are defective"),
        ([True, False], [1.0, np.nan], "1 scores are not finite"),
        ([True, False], [1.0], "expected one of each"),
    ],
)
def test_unusable_sets_are_refused(labels, scores, word):
    for metric in (metrics.image_auroc, metrics.average_precision, metrics.f1_max):
        with pytest.raises(DataError, match=word):
            metric(labels, scores)


def test_pixel_metrics_refuse_sets_without_defect_or_normal_pixels():
    pytest.importorskip("scipy")
    with metrics.PixelScores() as pixels:
        pixels.add(np.ones((2, 2)), None)
        with pytest.raises(DataError, match="mask that is not empty"):
            pixels.compute()
    with metrics.PixelScores() as pixels:
        pixels.add(np.ones((2, 2)), np.ones((2, 2), bool))
        with pytest.raises(DataError, match="every pixel"):
            pixels.compute()
        with pytest.raises(DataError, match="expected equal shapes"):
            pixels.add(np.ones((2, 2)), np.ones((2, 3), bool))
        with pytest.raises(DataError, match="not finite"):
            pixels.add(np.full((2, 2), np.nan), None)
