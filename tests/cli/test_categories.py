"""adfast eval over categories: which model, which means, what the papers say, what is missing."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from adfast import categories, cli, published
from adfast.commands import eval as command
from adfast.errors import DataError
from adfast.images import write_png

sys.path.insert(0, str(Path(__file__).parent))
from fake import FakeEngine  # noqa: E402
from test_report import Page  # noqa: E402

pytest.importorskip("scipy")


@pytest.fixture
def mvtec(tmp_path, monkeypatch):
    """Two textures and an object with masks, one object without; no model for the last."""
    rng = np.random.default_rng(1)
    for name in ("carpet", "grid", "bottle", "zipper", "screw"):
        root = tmp_path / "data" / name
        for label in ("good", "hole"):
            (root / "test" / label).mkdir(parents=True)
            for number in range(6):
                frame = rng.integers(100, 150, (20, 24), dtype=np.uint8)
                frame[8:11, 9:12] += np.uint8(0 if label == "good" else 12 * number)
                write_png(root / "test" / label / f"{number}.png", frame)
        if name != "zipper":
            (root / "ground_truth/hole").mkdir(parents=True)
            for number in range(6):
                mask = np.zeros((20, 24), np.uint8)
                mask[8:11, 9:12] = 255
                write_png(root / "ground_truth/hole" / f"{number}.png", mask)
        if name == "grid":
            (tmp_path / "models" / name).mkdir(parents=True)
            (tmp_path / "models" / name / "config.json").write_text(
                '{"model": "gtrans", "config": {}}'
            )
        elif name != "screw":
            (tmp_path / "models").mkdir(exist_ok=True)
            (tmp_path / "models" / f"{name}.plan").write_bytes(b"")
    (tmp_path / "data/notes").mkdir()
    loaded = []

    def load(args):
        loaded.append(args.model.name)
        fake = FakeEngine(0.18)
        fake.info["model"] = "gtrans"
        return fake

    monkeypatch.setattr(command, "load_engine", load)
    return tmp_path, loaded


def test_all_categories_are_evaluated_and_averaged(mvtec, capsys):
    root, loaded = mvtec
    words = ["eval", root / "models", "--data", root / "data", "--out", root / "out"]
    assert cli.main([*map(str, words), "--resamples", "30"]) == 0
    said = capsys.readouterr()
    assert loaded == ["bottle.plan", "carpet.plan", "grid", "zipper.plan"]
    assert "screw: no model" in said.err and "no model for screw" in said.out
    # Means of the papers' rows over the same categories: bottle, carpet, grid, zipper; the last has
    # no masks here.
    (line,) = [line for line in said.out.splitlines() if line.startswith("GTrans-R34, paper")]
    expected = [99.55, (97.9 + 99.2 + 98.8) / 3, (92.6 + 97.3 + 93.3) / 3]
    assert [float(word) for word in line.split()[2:]] == pytest.approx(expected, abs=0.051)
    document = json.loads((root / "out/results.json").read_text())
    assert list(document["categories"]) == ["bottle", "carpet", "grid", "zipper"]
    assert document["missing"] == ["screw"]
    means = document["means"]
    assert means["mean of textures"]["categories"] == ["carpet", "grid"]
    assert means["mean of objects"]["categories"] == ["bottle", "zipper"]
    for metric, of in (("image_auroc", 4), ("aupro", 3)):
        own = [found["metrics"][metric] for found in document["categories"].values()]
        own = [value for value in own if value is not None]
        whole = means["mean of all"]
        assert len(own) == whole["of"][metric] == of
        assert whole["metrics"][metric] == pytest.approx(np.mean(own))
        low, high = whole["intervals"][metric]
        assert low <= whole["metrics"][metric] <= high
    index = Page((root / "out/index.html").read_text())
    assert sorted(set(index.loaded)) == [f"{n}.html" for n in document["categories"]]
    assert all((root / "out" / each).is_file() for each in index.loaded)
    text = " ".join(index.words)
    assert "Without a model, so not in any mean: screw" in text
    assert "Without masks, so without pixel figures: zipper" in text
    assert "GTrans, Table 1" in text and "99.9" in index.words  # carpet, GTrans-R34


def test_a_wrong_choice_of_model_or_data_is_one_message(mvtec, capsys):
    root, loaded = mvtec

    def refused(*words):
        assert cli.main(["eval", *map(str, words)]) == 1
        return capsys.readouterr().err

    data = root / "data"
    text = refused(root / "models/carpet.plan", "--data", data)
    assert "5 categories" in text and "one category, --data" in text
    assert "is one model" in refused(root / "models/grid", "--data", data)
    (root / "none").mkdir()
    assert "has no model for any category" in refused(root / "none", "--data", data)
    names = root / "list.txt"
    names.write_text("x")
    assert "several categories" in refused(root / "models", "--data", data, "--list", names)
    for path in (data / "zipper/test/good").iterdir():
        path.unlink()
    assert "zipper" in refused(root / "models", "--data", data)
    assert loaded == []


def test_names_that_are_not_all_of_mvtec_have_one_mean():
    assert list(categories.groups(["carpet", "my_part"])) == ["mean of all"]
    assert list(categories.groups(["carpet"])) == ["mean of textures", "mean of all"]
    with pytest.raises(DataError, match="no model for any category"):
        categories.find_models(Path("nowhere"), ["a"])


def test_the_interval_of_a_mean_is_as_wide_as_that_of_independent_figures():
    rng = np.random.default_rng(0)
    draws = rng.normal([0.5, 0.7, 0.6], [0.02, 0.05, 0.01], (20000, 3))
    results = {
        name: {
            "metrics": dict.fromkeys(categories.AVERAGED, middle),
            "intervals": dict.fromkeys(categories.AVERAGED, list(ends)),
        }
        for name, middle, ends in zip(
            "abc", draws.mean(0), np.quantile(draws, [0.025, 0.975], axis=0).T, strict=True
        )
    }
    found = categories.averages(results)["mean of all"]["intervals"]["aupro"]
    assert found == pytest.approx(np.quantile(draws.mean(1), [0.025, 0.975]), abs=2e-3)


def test_published_rows_give_the_printed_means():
    known = {("GTrans-R34", "image_auroc"), ("HaloAE", "image_auroc"), ("InTra", "aupro")}
    for each in published.MVTEC_AD:
        assert len(each.values) in (0, 15)
        assert each.over(published.CATEGORIES) == each.mean
        if each.values and (each.name, each.metric) not in known:
            assert np.mean(each.values) == pytest.approx(each.mean, abs=0.1), each
        if each.values:
            assert each.over(["carpet"]) == each.values[0]
            assert each.over(["zipper", "carpet"]) == pytest.approx(
                (each.values[0] + each.values[-1]) / 2
            )
        else:
            assert each.over(["carpet"]) is None
        assert each.over(["carpet", "my_part"]) is None
    assert [each.name for each in published.find({"saae"}, "aupro")] == ["SAAE"]
