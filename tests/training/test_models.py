"""Training of every model: what the loop does alike whatever the paper."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import tiny_runs  # noqa: E402
from test_train import assert_same_run  # noqa: E402

from adfast import cli, models  # noqa: E402
from adfast.errors import AdfastError, ModelError  # noqa: E402
from adfast.models.recipes import RECIPES  # noqa: E402
from adfast.training import TrainSettings, checkpoint, train  # noqa: E402
from adfast.training.reporting import Reporter  # noqa: E402
from adfast.training.run import Run  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_runs.make_images(tmp_path_factory.mktemp("data"))


def adtr(data, **changes):
    fields = {"model": "adtr", "config": tiny_runs.ADTR, "precision": "f32", "lr": 1e-3}
    return tiny_runs.settings(data, **{**fields, **changes})


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(adtr(data), out)
    return out


def test_every_model_has_a_recipe_and_the_recipe_its_config():
    assert RECIPES.keys() == models.MODELS.keys()
    for name, recipe in RECIPES.items():
        config = models.config_class(name)()
        assert config.name == name
        if recipe.size:
            assert config.crop == (recipe.size,) * 2 and config.resize == (recipe.resize,) * 2
            assert recipe.resize_for(recipe.size) == recipe.resize
        for option in recipe.options:
            value = getattr(config, option.name)
            if option.choices and option.type is str:
                assert value == option.default and value in option.choices
            elif isinstance(option.default, (int, float)):
                assert value == option.default
        known = {option.name for option in recipe.options} | {"size", "batch", "epochs", "lr"}
        assert recipe.quick.keys() <= known


def test_settings_default_to_the_paper():
    gtrans, paper = TrainSettings(), TrainSettings(model="adtr")
    assert (gtrans.optimizer, gtrans.lr, gtrans.batch, gtrans.epochs) == ("adam", 1e-3, 32, 300)
    assert (paper.optimizer, paper.lr, paper.batch, paper.epochs) == ("adamw", 1e-4, 16, 500)
    assert paper.weight_decay == 1e-4 and TrainSettings(model="adtr", epochs=7).epochs == 7
    with pytest.raises(ModelError, match="choose one of gtrans"):
        TrainSettings(model="none")
    with pytest.raises(AdfastError, match="schedule"):
        TrainSettings(schedule="cosine")


def test_a_run_of_adtr(data, whole):
    info = json.loads((whole / "config.json").read_text())
    assert info["finished"] is True and info["model"] == "adtr"
    history = checkpoint.read_history(whole / "history.jsonl")
    assert [record["epoch"] for record in history] == [1, 2, 3, 4]
    assert history[-1]["loss"] < history[0]["loss"]
    assert "alpha_scale" not in info and "alpha_scale" not in history[0]
    # x0.1 after 0.8 of the epochs: from epoch 3.2 on, so none of four.
    assert [record["lr"] for record in history] == [1e-3] * 4
    model, _ = models.load_run(whole)
    assert type(model).__name__ == "ADTR" and not model.training
    images = torch.stack([image_of(data / name, model) for name in info["data"]["validation"]])
    with torch.no_grad():
        loss = model.loss(images).item()
    assert info["best"]["validation_loss"] == pytest.approx(loss, rel=1e-4)


def image_of(path, model):
    from adfast.data.folder import load_image, to_network

    return to_network(load_image(path), model.config.resize, model.config.crop)


# In the middle of the third epoch, with dropout drawn before and after; in its validation.
@pytest.mark.parametrize("images", [24, 29])
def test_ctrl_c_and_resume_equal_one_run(data, whole, tmp_path, images):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(adtr(data), out, report=tiny_runs.StopAt(images))
    train(adtr(data), out, resume=True)
    assert_same_run(out, whole)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_caches_do_not_change_the_training(data, tmp_path, precision):
    for cache in ("features", "off"):
        train(adtr(data, precision=precision, cache=cache, epochs=1), tmp_path / cache)
    tiny_runs.assert_losses_agree(
        tmp_path / "off", tmp_path / "features", 1e-3 if precision == "f32" else 0.05
    )


def test_schedules(data, tmp_path):
    def rates(name, **changes):
        run = Run(adtr(data, lr=1.0, epochs=10, **changes), tmp_path / name, False, Reporter())
        return [run.learning_rate(epoch) for epoch in range(10)]

    assert rates("step") == [1.0] * 8 + [0.1] * 2
    assert rates("constant", schedule="constant") == [1.0] * 10
    falling = rates("exponential", schedule="exponential", lr_decay=0.5)
    assert falling == pytest.approx([0.5 ** (i / 10) for i in range(10)])


def test_optimizers_are_those_that_are_named(data, tmp_path):
    for name, cls in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        run = Run(adtr(data, optimizer=name), tmp_path / name, False, Reporter())
        assert type(run.optimizer) is cls
        assert run.optimizer.param_groups[0]["weight_decay"] == 1e-4


def test_prepare_sees_the_training_images_once_and_may_add_to_the_model(
    data, tmp_path, monkeypatch
):
    from adfast.models.adtr import ADTR

    seen = []

    def prepare(self, features):
        seen.extend(f.shape for batch in features for f in batch)
        self.added = torch.nn.Linear(2, 1)

    monkeypatch.setattr(ADTR, "prepare", prepare)
    for cache in ("features", "off"):
        seen.clear()
        run = Run(adtr(data, cache=cache), tmp_path / cache, False, Reporter())
        assert sum(shape[0] for shape in seen) == 8 and seen[0][1:] == (64 + 128, 2, 2)
        optimized = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
        assert id(run.model.added.weight) in optimized


def test_old_runs_are_read_as_before(data, tmp_path):
    """Settings of a run written before there was more than one model."""
    old = {"model": "gtrans", "config": tiny_runs.CONFIG, "data": str(data), "list_file": None}
    old |= {"weights": "none", "epochs": 1, "batch": 3, "lr": 1e-3, "lr_decay": 0.9}
    old |= {"weight_decay": 1e-4, "fraction": 0.8, "seed": 0, "precision": "f32", "cache": "auto"}
    settings = TrainSettings(**old, device="cpu")
    assert (settings.optimizer, settings.schedule) == ("adam", "exponential")
    out = tmp_path / "run"
    info = train(settings, out)
    config = json.loads((out / "config.json").read_text())
    for name in ("optimizer", "schedule", "lr_drop"):
        del config["training"][name]
    (out / "config.json").write_text(json.dumps(config))
    assert cli.main(["train", "--out", str(out), "--resume", "--epochs", "2"]) == 0
    assert json.loads((out / "config.json").read_text())["best"]["epoch"] in (1, 2)
    assert info["alpha_scale"]


def test_command_line_of_adtr(data, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["train", "adtr", "--data", data, "--weights", "none", "--quick", "--size", "32"]
    words += ["--epochs", "1", "--levels", "1,2", "--grid", "4", "--pool", "5", "--out", out]
    assert cli.main([str(word) for word in words]) == 0
    info = json.loads((out / "config.json").read_text())
    config, training = info["config"], info["training"]
    assert config["backbone"] == "resnet18" and config["crop"] == config["resize"] == [32, 32]
    assert config["levels"] == [1, 2] and config["grid"] == [4, 4] and config["pool"] == 5
    assert config["upsample"] is True
    assert (training["epochs"], training["batch"], training["lr"]) == (1, 8, 1e-4)
    assert cli.main(["train", "--out", str(out), "--resume", "--epochs", "2"]) == 0
    assert len(checkpoint.read_history(out / "history.jsonl")) == 2
    capsys.readouterr()


def test_command_line_refusals(data, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    for words, code, message in [
        (["train", *out], 1, "the model is missing: one of gtrans, adtr"),
        (["train", "adtr", *out], 1, "--data is missing"),
        (["train", "adtr", "--data", str(data)], 1, "--out is missing"),
        (["train", "pca", "--data", str(data), *out], 2, "invalid choice: 'pca'"),
        (["train", "adtr", "--data", str(data), *out, "--levels", "a"], 2, "'a' cannot be read"),
        (["train", "adtr", "--data", str(data), *out, "--fusion", "P1"], 2, "--fusion"),
    ]:
        assert cli.main(words) == code
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_help_shows_the_defaults_of_the_model_without_torch(name):
    code = (
        "import sys; from adfast import cli; assert cli.main(['train', sys.argv[1], '-h']) == 0; "
        "assert not {'torch', 'onnx', 'timm', 'PIL'} & sys.modules.keys()"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "python"), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", code, name], check=True, env=env, timeout=60, capture_output=True
    )
    text, recipe = done.stdout.decode(), RECIPES[name]
    assert recipe.paper in text and f"default: {recipe.epochs}\n" in text
    assert f"default: {recipe.lr:g}\n" in text and f"default: {recipe.batch}\n" in text
    for option in recipe.options:
        assert f"--{option.name.replace('_', '-')}" in text
        assert f"default: {option.default}" in text


@pytest.mark.parametrize("labels", ["pixel", "image"])
def test_adtr_plus_starts_from_adtr(data, whole, tmp_path, labels):
    def plus(**changes):
        fields = {"model": "adtr_plus", "weights": str(whole), "precision": "f32", "lr": 1e-3}
        config = {"labels": labels, "top": 3}
        return tiny_runs.settings(data, **{**fields, "config": config, "epochs": 2, **changes})

    run = Run(plus(), tmp_path / "begun", False, Reporter())
    started, _ = models.load_run(whole)
    expected = started.state_dict()
    state = run.model.state_dict()
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert run.model.config.levels == (1, 2) and run.model.config.labels == labels

    info = train(plus(), tmp_path / "run")
    assert info["weights"]["source"] == f"run:{whole.name}" and len(info["weights"]["sha256"]) == 64
    assert TrainSettings(model="adtr_plus").epochs == 300
    with pytest.raises(KeyboardInterrupt):
        train(plus(), tmp_path / "resumed", report=tiny_runs.StopAt(13))
    train(plus(cache="off"), tmp_path / "resumed", resume=True)
    assert_same_run(tmp_path / "resumed", tmp_path / "run")
    model, _ = models.load_run(tmp_path / "run")
    assert model.config.name == "adtr_plus"
    trained = model.state_dict()
    assert not torch.equal(trained["reconstruction.query"], expected["reconstruction.query"])
    assert torch.equal(trained["backbone.conv1.weight"], expected["backbone.conv1.weight"])

    for changes, message in [
        ({"weights": "hub"}, "starts from a trained ADTR"),
        ({"weights": str(tmp_path / "run")}, "is a run of adtr_plus, expected adtr"),
        ({"config": {"crop": [64, 64], "resize": [64, 64]}}, "crop is .64, 64., expected .32, 32."),
    ]:
        with pytest.raises(ModelError, match=message):
            train(plus(**changes), tmp_path / "refused")


def test_command_line_of_adtr_plus(data, whole, tmp_path):
    out = tmp_path / "run"
    words = ["train", "adtr_plus", "--data", data, "--weights", whole, "--epochs", "1", "--out"]
    assert cli.main([str(word) for word in [*words, out, "--labels", "image"]]) == 0
    info = json.loads((out / "config.json").read_text())
    assert info["config"]["labels"] == "image" and info["config"]["crop"] == [32, 32]


def test_a_diverging_training_stops(data, tmp_path):
    with pytest.raises(ModelError, match="lower --lr"):
        train(adtr(data, lr=math.inf, epochs=2), tmp_path / "run")
