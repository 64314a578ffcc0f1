import numpy as np
import pytest

from adfast.calibrate import MapStatistics, spearman, threshold
from adfast.errors import ArgumentError


@pytest.mark.parametrize("count", [1, 2, 7, 99, 100, 101, 250])
@pytest.mark.parametrize("max_fpr", [0.0, 0.01, 0.05, 0.29, 0.5, 0.999])
def test_the_threshold_is_the_smallest_score_that_keeps_the_rate(count, max_fpr):
    scores = np.random.default_rng(count).normal(size=count).round(1)
    found = threshold(scores, max_fpr)
    fraction = [(scores > t).mean() for t in np.unique(scores)]
    fits = [t for t, f in zip(np.unique(scores), fraction, strict=True) if f <= max_fpr + 1e-12]
    assert found.value == min(fits)
    above = int((scores > found.value).sum())
    assert found.expected_fpr == (above + 1) / (count + 1)
    assert found.enough == (max_fpr * count >= 1 - 1e-9)


def test_a_product_that_misses_a_whole_number_by_rounding():
    assert threshold(np.arange(100.0), 0.29).value == 70.0


def test_the_expected_rate_is_what_new_images_show():
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(400):
        found = threshold(rng.normal(size=40), 0.05)
        rates.append((rng.normal(size=400) > found.value).mean())
    assert np.mean(rates) == pytest.approx(found.expected_fpr, rel=0.1)


@pytest.mark.parametrize(
    ("scores", "rate"), [([], 0.1), ([np.nan], 0.1), ([1.0], 1.0), ([1.0], -1)]
)
def test_bad_arguments(scores, rate):
    with pytest.raises(ArgumentError, match=r"\[threshold\]"):
        threshold(scores, rate)


def test_map_statistics():
    maps = np.random.default_rng(0).random((5, 20, 30), dtype=np.float32)
    found = MapStatistics(5)
    for each in maps:
        found.add(each)
    assert found.mean() == pytest.approx(maps.mean(), rel=1e-6)
    assert found.quantile(0.999) == pytest.approx(np.quantile(maps, 0.999), rel=1e-6)


def test_map_statistics_keep_a_bounded_number_of_pixels():
    found = MapStatistics(10**6)
    found.add(np.zeros((100, 100), np.float32))
    assert found._kept[0].size <= 2**24 / 10**6 + 1


def test_spearman():
    a = [1.0, 2.0, 2.0, 5.0, 3.0]
    assert spearman(a, np.exp(a)) == pytest.approx(1)
    assert spearman(a, [-x for x in a]) == pytest.approx(-1)
    assert spearman([1.0, 1.0], [2.0, 2.0]) == 1
    assert spearman([1.0, 1.0], [2.0, 3.0]) == 0
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 5, 30), rng.integers(0, 5, 30)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
