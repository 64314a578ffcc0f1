"""One command over all categories of a data set."""

import json
import shutil

import pytest

torch = pytest.importorskip("torch")

import fake_model  # noqa: E402
import tiny_runs  # noqa: E402

from adfast import cli  # noqa: E402
from adfast.errors import AdfastError, ModelError  # noqa: E402
from adfast.training import TrainSettings, checkpoint  # noqa: E402
from adfast.training.categories import categories, train_all  # noqa: E402


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    fake_model.register(monkeypatch)


@pytest.fixture
def data(tmp_path):
    for name, count in (("bottle", 4), ("cable", 5), ("screw", 6)):
        tiny_runs.make_images(tmp_path / "mvtec" / name, count)
    (tmp_path / "mvtec" / "notes").mkdir()
    return tmp_path / "mvtec"


def words(data, out, *more):
    found = ["train", "fake", "--data", data, "--out", out, "--epochs", "1", "--batch", "4"]
    return [str(word) for word in [*found, *more]]


def test_every_category_becomes_a_run(data, tmp_path, capsys):
    runs = tmp_path / "runs"
    assert categories(data) == ["bottle", "cable", "screw"] and categories(data / "cable") == []
    assert cli.main(words(data, runs)) == 0
    printed = capsys.readouterr()
    assert printed.out.count("best epoch 1") == 3 and "3 of 3 categories trained" in printed.out
    assert "cable (2 of 3)" in printed.err
    for name, count in (("bottle", 4), ("cable", 5), ("screw", 6)):
        info = json.loads((runs / name / "config.json").read_text())
        images = info["data"]["train"] + info["data"]["validation"]
        assert info["finished"] and len(images) == count
        assert info["data"]["root"] == str((data / name).resolve())
    assert cli.main(words(data, runs)) == 1  # not over them
    assert "bottle holds a training already" in capsys.readouterr().err


def test_a_resume_does_what_is_left(data, tmp_path, capsys):
    """The first is finished, the second begun, the third not."""
    runs = tmp_path / "runs"
    assert cli.main(words(data, runs)) == 0
    shutil.rmtree(runs / "screw")
    cable = json.loads((runs / "cable" / "config.json").read_text())
    (runs / "cable" / "config.json").write_text(json.dumps({**cable, "finished": False}))
    kept = {path: path.read_bytes() for path in (runs / "bottle").iterdir()}
    capsys.readouterr()
    assert cli.main(words(data, runs, "--resume")) == 0
    printed = capsys.readouterr()
    assert f"{runs / 'bottle'} is finished after 1 epochs" in printed.err
    assert f"resuming {runs / 'cable'}" in printed.err
    assert "3 of 3 categories trained" in printed.out
    assert {path: path.read_bytes() for path in (runs / "bottle").iterdir()} == kept
    assert json.loads((runs / "cable" / "config.json").read_text())["finished"]
    assert len(checkpoint.read_history(runs / "screw" / "history.jsonl")) == 1
    assert cli.main(["train", "--out", str(runs), "--resume"]) == 1
    assert "not the folder of a training run" in capsys.readouterr().err


def test_one_that_fails_does_not_stop_the_others(data, tmp_path, capsys):
    (data / "cable" / "train" / "good" / "002.png").write_bytes(b"no image")
    assert cli.main(words(data, tmp_path / "runs")) == 1
    printed = capsys.readouterr()
    assert "cable: failed: 1 of 5 training images" in printed.out and "002.png" in printed.out
    assert "2 of 3 categories trained" in printed.out
    assert (tmp_path / "runs" / "screw" / "best.safetensors").is_file()


def test_what_all_lack_is_found_before_the_first(data, tmp_path, capsys):
    for path in (data / "screw" / "train" / "good").glob("00[1-9].png"):
        path.unlink()
    assert cli.main(words(data, tmp_path / "runs")) == 1
    assert "1 good image; expected at least 2" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert cli.main(words(data, tmp_path / "runs", "--list", "list.txt")) == 1
    assert "--list names images of one category" in capsys.readouterr().err


def test_ctrl_c_stops_all_and_resumes(data, tmp_path, monkeypatch, capsys):
    from adfast.training import reporting

    with monkeypatch.context() as patch:
        patch.setattr(reporting, "RichReporter", lambda: tiny_runs.StopAt(3))
        assert cli.main(words(data, tmp_path / "runs")) == 130
    assert "the same command and --resume" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "cable").exists()
    assert cli.main(words(data, tmp_path / "runs", "--resume")) == 0
    assert "3 of 3 categories trained" in capsys.readouterr().out


def test_runs_to_start_from_and_labelled_images_are_those_of_the_category(data, tmp_path):
    for folder in ("runs/cable", "labelled/screw"):
        (tmp_path / folder).mkdir(parents=True)
    asked = {}

    def train(settings, out, **options):
        asked[out.name] = settings
        if out.name == "bottle":
            raise ModelError("no")
        return {}

    settings = TrainSettings(
        model="fake",
        data=str(data),
        weights=str(tmp_path / "runs"),
        labelled=str(tmp_path / "labelled"),
    )
    results = train_all(settings, tmp_path / "out", train=train)
    assert isinstance(results["bottle"], AdfastError) and results["cable"] == {}
    assert asked["cable"].weights == str(tmp_path / "runs" / "cable")
    assert asked["screw"].weights == str(tmp_path / "runs")
    assert asked["screw"].labelled == str(tmp_path / "labelled" / "screw")
    assert asked["cable"].labelled == str(tmp_path / "labelled")
