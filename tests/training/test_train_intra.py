"""Training InTra: no frozen part, windows drawn per step, resuming, the command's options."""

import argparse
import json

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from tiny_runs import StopAt, make_images, settings  # noqa: E402

from adfast import models  # noqa: E402
from adfast.commands import train as command  # noqa: E402
from adfast.errors import ModelError  # noqa: E402
from adfast.models.intra import InTraConfig  # noqa: E402
from adfast.models.recipes import recipe  # noqa: E402
from adfast.training import TrainSettings, train  # noqa: E402

CONFIG = {"patch": 8, "window": 3, "width": 16, "blocks": 3, "heads": 2, "crop": [32, 32]}
CONFIG |= {"resize": [36, 36], "epoch_windows": 4, "visit_windows": 2, "validation_windows": 6}
TINY = {"model": "intra", "config": CONFIG, "precision": "f32", "lr": 3e-3, "fraction": 0.8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run of four epochs without interruption."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(settings(data, **TINY), out)
    return out


def test_a_run_learns_and_has_a_mean_map(whole):
    history = [json.loads(line) for line in (whole / "history.jsonl").read_text().splitlines()]
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["validation_loss"] < history[0]["validation_loss"]
    model, info = models.load_run(whole)
    assert info["finished"] and info["weights"] == {"source": "none"}
    assert model.config == InTraConfig(**CONFIG) and model.mean_map.max() > 0
    score, anomaly_map = model(torch.rand(1, 3, 32, 32))
    assert score.isfinite().all() and anomaly_map.shape == (1, 1, 32, 32)


@pytest.mark.parametrize("images", [8, 29])  # in the first epoch; in a later one
def test_resuming_gives_the_same_run(data, whole, tmp_path, images):
    """Windows, flips and turns are drawn again as they would have been."""
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, **TINY), tmp_path / "run", report=StopAt(images))
    train(settings(data, **TINY), tmp_path / "run", resume=True)
    actual, expected = (load_file(run / "last.safetensors") for run in (tmp_path / "run", whole))
    assert actual.keys() == expected.keys()
    assert not [key for key in actual if not torch.equal(actual[key], expected[key])]


@pytest.mark.parametrize("cache", ["features", "off"])
def test_no_features_are_kept(data, whole, tmp_path, cache):
    """There are none, whatever is asked for; in bfloat16 too it learns."""
    train(settings(data, **TINY, cache=cache), tmp_path / "run")
    actual, expected = (load_file(run / "last.safetensors") for run in (tmp_path / "run", whole))
    assert not [key for key in actual if not torch.equal(actual[key], expected[key])]


def test_training_in_bfloat16(data, tmp_path):
    train(settings(data, **{**TINY, "precision": "bf16", "epochs": 2}), tmp_path / "run")
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    first, second = (json.loads(line) for line in lines)
    assert second["loss"] < first["loss"]


def test_weights_are_refused(data, tmp_path):
    with pytest.raises(ModelError, match="trained from scratch"):
        train(settings(data, **{**TINY, "weights": "hub"}), tmp_path / "run")
    assert TrainSettings(model="intra").weights == "none"
    assert TrainSettings(model="gtrans").weights == "hub"


def test_the_command_says_and_takes_the_papers_choices(monkeypatch, tmp_path):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    asked = []

    def ask(settings, out, **options):
        asked.append(settings)
        return {"best": {"epoch": 1, "validation_loss": 1.0}}

    monkeypatch.setattr("adfast.training.train", ask)
    common = ["intra", "--data", str(tmp_path), "--out", "run"]
    options = ["--patch", "8", "--window", "5", "--positions", "local", "--attention", "msa"]
    options += ["--long-skips", "no", "--augment", "no", "--mean-map-images", "20"]
    options += ["--size", "320", "--weights", "none"]
    for extra in ([], options, ["--quick"]):
        assert command.run(parser.parse_args(common + extra)) == 0
    paper, changed, quick = asked
    assert (paper.optimizer, paper.lr, paper.weight_decay) == ("adam", 1e-4, 0)
    assert (paper.weights, paper.fraction, recipe("intra").patience) == ("none", 0.9, 50)
    assert InTraConfig(**paper.config) == InTraConfig()
    # Section 4.1: 256 windows per step, 600 per image and epoch.
    assert paper.batch * InTraConfig().visit_windows == 256 and InTraConfig().epoch_windows == 600
    wanted = {"patch": 8, "window": 5, "positions": "local", "attention": "msa"}
    wanted |= {"long_skips": False, "augment": False, "mean_map_images": 20}
    wanted |= {"crop": (320, 320), "resize": (320, 320)}
    assert InTraConfig(**changed.config) == InTraConfig(**wanted)
    assert InTraConfig(**quick.config).crop == (128, 128) and quick.batch < paper.batch
