import numpy as np
import pytest

from adfast import calibrate, metrics
from adfast.calibrate import MapStatistics, choose_rate, spearman, threshold
from adfast.errors import ArgumentError, DataError


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
    low, high = found.fpr
    assert 0 <= low < found.expected_fpr < high <= 1
    assert found.low is None or found.low <= found.value
    assert found.high is None or found.high >= found.value


def test_a_product_that_misses_a_whole_number_by_rounding():
    assert threshold(np.arange(100.0), 0.29).value == 70.0


def test_the_expected_rate_is_what_new_images_show():
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(400):
        found = threshold(rng.normal(size=40), 0.05)
        rates.append((rng.normal(size=400) > found.value).mean())
    assert np.mean(rates) == pytest.approx(found.expected_fpr, rel=0.1)


@pytest.mark.parametrize("count", [1, 2, 10, 152, 3000])
@pytest.mark.parametrize("share", [0.0, 1e-3, 0.3, 0.99, 1.0])
def test_binomial_agrees_with_scipy(count, share):
    stats = pytest.importorskip("scipy.stats")
    for most in {0, 1, count // 2, count - 1, count}:
        found = calibrate.binomial_cdf(most, count, share)
        expected = stats.binom.cdf(np.arange(most + 1), count, share)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (1, 152), (2, 151), (30, 2), (151, 1), (40, 4000)])
@pytest.mark.parametrize("share", [1e-4, 0.025, 0.5, 0.975])
def test_beta_quantiles_agree_with_scipy(a, b, share):
    stats = pytest.importorskip("scipy.stats")
    found = calibrate.beta_quantile(share, a, b)
    assert found == pytest.approx(stats.beta.ppf(share, a, b), rel=1e-7)


def test_clopper_pearson_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    for seen, count in ((0, 20), (3, 20), (20, 20), (5, 1000)):
        expected = stats.binomtest(seen, count).proportion_ci(0.95, "exact")
        assert calibrate.clopper_pearson(seen, count) == pytest.approx(tuple(expected), rel=1e-6)


@pytest.mark.parametrize(("count", "rate"), [(60, 0.05), (300, 0.1), (20, 0.5)])
def test_intervals_hold_as_often_as_they_say(count, rate):
    rng = np.random.default_rng(count)
    held_rate, held_value, seen = 0, 0, 2000
    for _ in range(seen):
        found = threshold(rng.random(count), rate)  # uniform: the rate above a value is 1 - value
        held_rate += found.fpr[0] <= 1 - found.value <= found.fpr[1]
        low = -np.inf if found.low is None else found.low
        high = np.inf if found.high is None else found.high
        held_value += low <= 1 - rate <= high
    assert held_rate / seen == pytest.approx(0.95, abs=0.015)
    assert 0.935 < held_value / seen < 0.995  # ranks are whole: 95 % at least, not exactly


def test_the_threshold_has_no_upper_end_when_the_images_are_few():
    assert threshold(np.arange(152.0), 0.01).high is None
    found = threshold(np.arange(400.0), 0.01)
    assert (found.low, found.value, found.high) == (391, 395, 399)
    assert threshold([1.0, 2.0], 0.0).high is None


def test_the_rate_that_images_can_show():
    assert choose_rate(100, 0.01) == 0.01 and choose_rate(100, 0.5) == 0.5
    assert choose_rate(100, 0.29) == 0.29 and choose_rate(3, 1 / 3) == 1 / 3
    assert choose_rate(1000, None) == 0.01 and choose_rate(24, None) == 1 / 24
    with pytest.raises(
        DataError, match="24 good images cannot show .* 0.01: that takes 100 or"
    ) as e:
        choose_rate(24, 0.01)
    # The rate that the message names is accepted.
    named = float(str(e.value).split("a rate of ")[1].split()[0])
    assert choose_rate(24, named) == named == pytest.approx(1 / 24, rel=1e-3)
    with pytest.raises(DataError, match="at least 2"):
        choose_rate(1, None)
    for asked in (0, 1, -0.1, float("nan")):
        with pytest.raises(ArgumentError, match="max_fpr"):
            choose_rate(100, asked)


@pytest.mark.parametrize("levels", [3, 10**6])
def test_the_threshold_of_the_largest_f1(levels):
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(levels)
    labels = rng.random(80) < 0.3
    scores = np.round((rng.random(80) + 0.5 * labels) * levels) / levels
    found = calibrate.best_f1(labels, scores)
    seen = calibrate.judge(labels, scores, found.value)
    best, least = metrics.f1_max(labels, scores)
    assert seen.f1 == pytest.approx(best, abs=1e-12)
    assert found.value not in scores
    below = scores[scores < least]
    assert found.value < least and (below.size == 0 or found.value > below.max())
    assert found.low <= found.value <= found.high
    assert found.fpr[0] <= seen.false_alarms / seen.good == found.expected_fpr <= found.fpr[1]
    assert found == calibrate.best_f1(labels, scores)


def test_scores_that_say_nothing_call_everything_anomalous():
    labels = np.array([False, True, True])
    found = calibrate.best_f1(labels, np.ones(3))
    assert found.value < 1 and calibrate.judge(labels, np.ones(3), found.value).misses == 0


def test_a_plan_of_before_is_described_too():
    old = {"threshold": 0.5, "max_fpr": 0.01, "expected_fpr": 0.02, "images": 99, "source": "x"}
    assert calibrate.describe(old)[0] == "threshold 0.5"
    assert "at most 0.01" in calibrate.describe(old)[1]
    assert calibrate.describe({"images": 0}) == ["not calibrated: no threshold, no verdicts"]


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
