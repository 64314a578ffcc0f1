"""Training SAAE: the measured width, frozen ViT, resuming, the command's options."""

import argparse
import json

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from tiny_runs import StopAt, make_images, settings  # noqa: E402

from adfast import models  # noqa: E402
from adfast.commands import train as command  # noqa: E402
from adfast.errors import ModelError  # noqa: E402
from adfast.export import export_onnx  # noqa: E402
from adfast.models.saae import SAAEConfig  # noqa: E402
from adfast.training import TrainSettings, train  # noqa: E402

CONFIG = {"backbone": "vit_tiny_patch16_224", "layers": [0, 1], "crop": [32, 32]}
CONFIG |= {"resize": [36, 36]}
TINY = {"model": "saae", "config": CONFIG, "precision": "f32", "lr": 1e-3, "epochs": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run of three epochs without interruption."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(settings(data, **TINY), out)
    return out


def test_a_run_has_the_measured_width(whole):
    model, info = models.load_run(whole)
    width = info["config"]["width"]
    assert info["finished"] and width >= 3 and width % 3 == 0
    assert model.transformer.position.shape == (1, 4, width)
    assert model.config == SAAEConfig(**{**CONFIG, "width": width})
    assert info["training"]["lr"] == 1e-3 and info["training"]["schedule"] == "constant"
    history = [json.loads(line) for line in (whole / "history.jsonl").read_text().splitlines()]
    assert history[-1]["loss"] < history[0]["loss"]
    score, anomaly_map = model(torch.rand(1, 3, 32, 32))
    assert score.isfinite().all() and anomaly_map.shape == (1, 1, 32, 32)


def test_the_vit_stays_and_the_rest_moves(whole):
    state = load_file(whole / "last.safetensors")
    torch.manual_seed(0)
    start, _ = models.model_class("saae").from_weights(SAAEConfig(**CONFIG), "none")
    for key, value in start.state_dict().items():
        assert torch.equal(state[key], value), key
    assert state["encoder.1.running_mean"].abs().sum() > 0


@pytest.mark.parametrize("cache", ["images", "features"])
def test_resuming_gives_the_same_run(data, tmp_path, cache, monkeypatch):
    """Interrupted in the second epoch; the width is that of the run, not measured again."""
    # With the same cache: the ViT's last bits depend on how many images it sees at once.
    tiny = settings(data, **TINY, cache=cache)
    whole = tmp_path / "whole"
    train(tiny, whole)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path / "run", report=StopAt(13))
    monkeypatch.setattr("adfast.models.saae.latent_width", None)
    train(tiny, tmp_path / "run", resume=True)
    actual, expected = (load_file(run / "last.safetensors") for run in (tmp_path / "run", whole))
    assert actual.keys() == expected.keys()
    assert not [key for key in actual if not torch.equal(actual[key], expected[key])]


def test_another_variance_does_not_resume(data, whole):
    other = settings(data, **{**TINY, "config": {**CONFIG, "pca_variance": 0.999}})
    with pytest.raises(ModelError, match="its config is not that of this training"):
        train(other, whole, resume=True)


def test_a_run_exports(whole, tmp_path):
    onnx = pytest.importorskip("onnx")
    proto = onnx.load(export_onnx(whole, tmp_path / "model.onnx"))
    fields = {p.key: json.loads(p.value) for p in proto.metadata_props}
    assert fields["adfast.model"] == "saae"
    assert (
        fields["adfast.config"]["width"]
        == json.loads((whole / "config.json").read_text())["config"]["width"]
    )


def test_the_command_says_and_takes_the_papers_choices(monkeypatch, tmp_path):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    asked = []

    def ask(settings, out, **options):
        asked.append(settings)
        return {"best": {"epoch": 1, "validation_loss": 1.0}}

    monkeypatch.setattr("adfast.training.train", ask)
    common = ["saae", "--data", str(tmp_path), "--out", "run", "--weights", "none"]
    options = ["--layers", "0,4", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
    options += ["--mlp-factor", "1", "--pca-variance", "0.9"]
    for extra in ([], options, ["--quick"]):
        assert command.run(parser.parse_args(common + extra)) == 0
    paper, changed, quick = asked
    assert isinstance(paper, TrainSettings)
    assert (paper.optimizer, paper.lr, paper.weight_decay) == ("adam", 1e-4, 0)
    assert (paper.epochs, paper.batch) == (700, 32)
    assert SAAEConfig(**paper.config) == SAAEConfig()
    wanted = {"layers": [0, 4], "mean": [0.5] * 3, "std": [0.5] * 3}
    wanted |= {"mlp_factor": 1.0, "pca_variance": 0.9}
    assert SAAEConfig(**changed.config) == SAAEConfig(**wanted)
    assert quick.config["backbone"] == "vit_tiny_patch16_224"
    assert quick.config["crop"] == [224, 224] == quick.config["resize"]
