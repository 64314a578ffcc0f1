"""Training HaloAE: its schedule, its mean map, resuming to the bit, the command's options."""

import argparse
import json

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from tiny_runs import StopAt, make_images, settings  # noqa: E402

from adfast import models  # noqa: E402
from adfast.commands import train as command  # noqa: E402
from adfast.data.folder import load_image, to_network  # noqa: E402
from adfast.models.haloae import HaloAEConfig  # noqa: E402
from adfast.training import TrainSettings, train  # noqa: E402

CONFIG = {"backbone": "vgg11", "layers": [1, 2], "crop": [40, 40], "resize": [44, 44], "block": 3}
CONFIG |= {"halo": 1, "head_width": 6, "widths": [6, 4], "filters": [3, 5], "heads": [1, 2]}
CONFIG |= {"decoder_widths": [4], "decoder_filters": [3, 1], "decoder_heads": [2, 1]}
CONFIG |= {"head_dim": 4, "image_widths": [8, 8, 4, 4]}
TINY = {"model": "haloae", "config": CONFIG, "precision": "f32", "lr": 1e-3, "epochs": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run of three epochs without interruption."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(settings(data, **TINY), out)
    return out


def test_a_run_has_its_mean_map(data, whole):
    model, info = models.load_run(whole)
    assert info["finished"] and model.config == HaloAEConfig(**CONFIG)
    assert (info["training"]["optimizer"], info["training"]["weight_decay"]) == ("adam", 1e-5)
    maps = []
    for path in info["data"]["train"]:
        image = to_network(load_image(data / path), model.config.resize, model.config.crop)
        with torch.no_grad():
            maps.append(model.uncalibrated_map(image[None]))
    torch.testing.assert_close(model.mean_map, torch.cat(maps).mean(dim=0, keepdim=True))
    assert model.mean_map.min() > 0


def test_it_learns_to_reconstruct_features(data, tmp_path):
    """By validation, which the changing weights of the losses do not touch."""
    train(settings(data, **{**TINY, "epochs": 12, "lr": 5e-3}), tmp_path / "run")
    text = (tmp_path / "run" / "history.jsonl").read_text()
    losses = [json.loads(line)["validation_loss"] for line in text.splitlines()]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("cache", ["off", "features"])
def test_resuming_gives_the_same_run(data, whole, tmp_path, cache):
    """Interrupted in the second epoch; features are never kept, whatever is asked for."""
    tiny = settings(data, **TINY, cache=cache)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path / "run", report=StopAt(13))
    train(tiny, tmp_path / "run", resume=True)
    actual, expected = (load_file(run / "last.safetensors") for run in (tmp_path / "run", whole))
    assert actual.keys() == expected.keys()
    assert not [key for key in actual if not torch.equal(actual[key], expected[key])]


def test_every_epoch_has_its_weights(data, tmp_path, monkeypatch):
    from adfast.models.haloae import HaloAE

    seen = []
    losses = HaloAE.losses

    def record(self, *args):
        seen.append(self.loss_weights)
        return losses(self, *args)

    monkeypatch.setattr(HaloAE, "losses", record)
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, **TINY), tmp_path / "run", report=StopAt(13))
    train(settings(data, **TINY), tmp_path / "run", resume=True)
    assert len(set(seen)) == 3 and len(seen) == 9
    assert [seen.index(weights) for weights in seen] == [0, 0, 0, 3, 3, 3, 6, 6, 6]


def test_the_command_says_and_takes_the_papers_choices(monkeypatch, tmp_path):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    asked = []

    def ask(settings, out, **options):
        asked.append(settings)
        return {"best": {"epoch": 1, "validation_loss": 1.0}}

    monkeypatch.setattr("adfast.training.train", ask)
    common = ["haloae", "--data", str(tmp_path), "--out", "run", "--weights", "none"]
    options = ["--backbone", "vgg16_bn", "--layers", "1,3", "--head-width", "20"]
    options += ["--widths", "20,10,5,5", "--decoder-widths", "5,5,10,20", "--legacy-mask", "yes"]
    options += ["--map-source", "image", "--size", "160", "--block", "6", "--halo", "1"]
    for extra in ([], options, ["--quick"]):
        assert command.run(parser.parse_args(common + extra)) == 0
    paper, changed, quick = asked
    assert isinstance(paper, TrainSettings)
    assert (paper.optimizer, paper.lr, paper.weight_decay) == ("adam", 1e-4, 1e-5)
    assert (paper.epochs, paper.batch, paper.schedule) == (250, 12, "constant")
    assert HaloAEConfig(**paper.config) == HaloAEConfig()
    wanted = {"backbone": "vgg16_bn", "layers": [1, 3], "head_width": 20, "legacy_mask": True}
    wanted |= {"widths": [20, 10, 5, 5], "decoder_widths": [5, 5, 10, 20], "map_source": "image"}
    wanted |= {"crop": [160, 160], "resize": [160, 160], "block": 6, "halo": 1}
    assert HaloAEConfig(**changed.config) == HaloAEConfig(**wanted)
    assert HaloAEConfig(**quick.config).backbone == "vgg11"
    assert quick.config["crop"] == [112, 112] == quick.config["resize"]
