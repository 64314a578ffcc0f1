"""Reports: well-formed, self-contained, and saying what the results file says."""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from adfast import cli, report
from adfast.images import write_png
from adfast.report import charts

sys.path.insert(0, str(Path(__file__).parent))
from fake import FakeEngine  # noqa: E402

pytest.importorskip("scipy")


class Page(HTMLParser):
    """Checks that elements nest, and collects text and what is loaded from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.loaded, self.elements = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        values = dict(attributes)
        self.loaded += [values[key] for key in ("src", "href", "action") if key in values]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Evaluate a fake engine on random frames of two classes, one with a hostile name."""
    root = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    for label in ("good", "hole", "a<b>&'c"):
        for number in range(5):
            frame = rng.integers(100, 150, (24, 30, 3), dtype=np.uint8)
            frame[10:13, 12:15] += np.uint8(0 if label == "good" else 25 * number)
            for place, picture in (
                ("test", frame),
                ("ground_truth", ((np.arange(720).reshape(24, 30) % 97) < 5) * np.uint8(255)),
            ):
                if place == "test" or label != "good":
                    path = root / "data" / place / label / f"{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_png(path, picture)
    from adfast.commands import eval as command

    real, command.load_engine = command.load_engine, lambda args: FakeEngine(0.19)
    try:
        words = ["eval", "fake.plan", "--data", root / "data", "--out", root / "out"]
        assert cli.main([*map(str, words), "--resamples", "40"]) == 0
    finally:
        command.load_engine = real
    text = (root / "out/report.html").read_text()
    return text, json.loads((root / "out/results.json").read_text())


def test_the_page_is_well_formed_and_needs_nothing_else(evaluated):
    page = Page(evaluated[0])
    assert page.loaded and all(each.startswith("data:image/png;base64,") for each in page.loaded)
    assert not {"script", "link", "iframe", "object", "b>"} & set(page.elements)
    assert "a<b>&'c" in page.words and "url(" not in evaluated[0]
    assert "@media print" in evaluated[0] and "width=device-width" in evaluated[0]


def test_the_page_shows_the_figures_of_the_results_file(evaluated):
    text, result = evaluated
    words = Page(text).words
    for name, title in report.METRICS.items():
        assert words.count(title) >= 1
        assert report.percent(result["metrics"][name]) in words
        assert report.interval(result["intervals"][name]) in words
    for entry in result["classes"]:
        if entry["label"] != "good":
            assert report.interval(entry["intervals"]["aupro"]) in words
    for title in (
        *("Scores", "ROC of images", "PRO, FPR ≤ 0.3", "ROC of pixels", "Time per image"),
        *("Worst misses", "Worst false alarms", "Provenance", "image AUROC by class"),
    ):
        assert title in words, title
    assert result["provenance"]["machine"]["processor"] in text
    shown = len(re.findall("<figure>", text))
    assert shown == min(6, result["verdicts"]["misses"]) + min(
        6, result["verdicts"]["false_alarms"]
    )


def test_a_curve_passes_through_its_points_and_is_cut_at_its_limit():
    points = [(0, 0), (0.1, 0.5), (0.5, 0.9), (1, 1)]
    drawn = charts.curve("c", points, (0.1, 0.5), names=("x", "y"), limit=0.3).text
    (line,) = re.findall(r'<path d="M([^"HZ]*)" fill="none" stroke="var\(--blue\)', drawn)
    at = [tuple(map(float, pair.split())) for pair in line.split("L")]
    across = [50 + 358 * x / 0.3 for x in (0, 0.1, 0.3)]
    up = [246 - 220 * y for y in (0, 0.5, 0.7)]
    np.testing.assert_allclose(at, list(zip(across, up, strict=True)), atol=0.06)
    assert f'<circle cx="{across[1]:.1f}" cy="{up[1]:.1f}"' in drawn
    assert "threshold: 10.0 % / 50.0 %" in drawn
    beyond = charts.curve("c", points, (0.5, 0.9), names=("x", "y"), limit=0.3).text
    assert "<circle" not in beyond and "beyond, at 50.0 % / 90.0 %" in beyond


@pytest.mark.parametrize(
    ("good", "defective", "threshold"),
    [
        ([1.0], [1.0], None),
        ([1.0], [1.0], 1.0),
        ([0.0, 0.1], [5.0], 2.0),
        ([1e-6, 2e-6], [3.0, 4.0], 1e-3),
        ([-1.0, 2.0], [3.0], None),
    ],
)
def test_bars_add_up_to_all_images(good, defective, threshold):
    drawn = charts.scores(np.array(good), np.array(defective), threshold).text
    assert "nan" not in drawn and ("threshold" in drawn) is (threshold is not None)
    heights = {"blue": 0.0, "red": 0.0}
    for tall, colour in re.findall(r'height="([\d.]+)" fill="var\(--(blue|red)\)"', drawn):
        heights[colour] += float(tall)
    # Both kinds fill the same area: shares, not counts.
    assert heights["blue"] == pytest.approx(heights["red"], abs=0.5)
    assert ("logarithmic" in drawn) is (min(good) > 0 and max(defective) / min(good) > 20)


def test_ticks_are_round_and_inside():
    assert charts._round_steps(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert charts._round_steps(0, 0.3, 5) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert charts._round_steps(27.3, 66, 5) == pytest.approx([30, 40, 50, 60])


def test_one_latency_and_classes_without_interval():
    assert "nan" not in charts.latencies(np.array([3.0])).text
    drawn = charts.intervals("c", [("a", 0.5, None), ("b", 1.0, (1.0, 1.0))], 0.75).text
    assert drawn.count("<circle") == 2 and drawn.count("stroke-linecap") == 1
