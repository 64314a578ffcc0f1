"""Ending early, and what a resume does with a run that has ended or that began otherwise."""

import json
import sys

import pytest

torch = pytest.importorskip("torch")

import fake_model  # noqa: E402
import tiny_runs  # noqa: E402

from adfast import cli, models  # noqa: E402
from adfast.errors import AdfastError, ModelError  # noqa: E402
from adfast.training import TrainSettings, checkpoint, train  # noqa: E402
from adfast.training.reporting import Reporter  # noqa: E402

# Validation losses by epoch: the best is the second, then none is better.
LOSSES = [5.0, 3.0, 4.0, 3.5, 3.0, 6.0, 1.0, 2.0]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_runs.make_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    """The fake model, with prescribed validation losses."""
    fake_model.register(monkeypatch)

    def begin_epoch(self, epoch, epochs):
        self.epoch, self.weight = epoch, 1.0

    def measure(self, image, features=None):
        return {"loss": torch.full((len(image),), LOSSES[self.epoch])}

    monkeypatch.setattr(fake_model.Fake, "begin_epoch", begin_epoch)
    monkeypatch.setattr(fake_model.Fake, "measure", measure)


def settings(data, **changes):
    fields = {"model": "fake", "config": {}, "precision": "f32", "epochs": 8, "patience": 3}
    return tiny_runs.settings(data, **{**fields, **changes})


class Say(Reporter):
    def __init__(self):
        self.said = []

    def message(self, text):
        self.said.append(text)

    def phase(self, title, total, done=0):
        self.said.append(title)


def epochs(run):
    return [record["epoch"] for record in checkpoint.read_history(run / "history.jsonl")]


def contents(run):
    return {path.name: path.read_bytes() for path in run.iterdir()}


def test_training_stops_when_validation_has_not_improved(data, tmp_path):
    run, said = tmp_path / "run", Say()
    info = train(settings(data), run, report=said)
    assert epochs(run) == [1, 2, 3, 4, 5]
    assert info["best"]["epoch"] == 2 and info["stopped"] == {"epoch": 5, "patience": 3}
    assert json.loads((run / "config.json").read_text()) == info and info["finished"]
    assert any("stopped after epoch 5" in text for text in said.said)
    # The best model is that of two epochs.
    train(settings(data, epochs=2), tmp_path / "two")
    kept, two = (models.load_run(folder)[0] for folder in (run, tmp_path / "two"))
    assert torch.equal(kept.colour, two.colour) and kept.colour.any()

    before, said = contents(run), Say()
    assert train(settings(data), run, resume=True, report=said) == info
    # Nothing but said: no image was read.
    assert contents(run).items() >= before.items() and len(said.said) == 1
    assert "stopped after epoch 5, 3 epochs after its best" in said.said[0]
    # More patience goes on, and finds a better one.
    info = train(settings(data, patience=5), run, resume=True)
    assert epochs(run) == list(range(1, 9)) and info["best"]["epoch"] == 7
    assert info["stopped"] is None


def test_without_patience_all_epochs_run(data, tmp_path):
    info = train(settings(data, patience=0, epochs=6), tmp_path / "run")
    assert epochs(tmp_path / "run") == [1, 2, 3, 4, 5, 6] and info["stopped"] is None
    assert TrainSettings().patience == 0
    with pytest.raises(AdfastError, match="patience is -1"):
        settings(data, patience=-1)


def test_a_kill_between_the_last_epoch_and_the_end(data, tmp_path, monkeypatch):
    from adfast.training.run import Run

    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            train(settings(data), tmp_path / "run")
    info = train(settings(data), tmp_path / "run", resume=True)
    assert epochs(tmp_path / "run") == [1, 2, 3, 4, 5] and info["stopped"]["epoch"] == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"bias": 0.5}}, "its config is not that of.*bias is 0.5, the run's 0.0"),
        ({"lr": 0.5}, "its lr is not that of .*it is 0.5, the run's is 0.01"),
        ({"batch": 7}, "its batch"),
        ({"seed": 1}, "its seed"),
        ({"model": "adtr", "config": tiny_runs.ADTR}, "its model.*adtr, the run's is fake"),
    ],
)
def test_other_settings_are_refused_before_images_are_read(data, tmp_path, change, message):
    run, said = tmp_path / "run", Say()
    train(settings(data, epochs=1), run)
    before = contents(run)
    with pytest.raises(ModelError, match=message):
        train(settings(data, epochs=2, **change), run, resume=True, report=said)
    assert not said.said and contents(run) == before


def test_other_images_are_refused_before_they_are_decoded(tmp_path):
    root, run = tiny_runs.make_images(tmp_path / "data"), tmp_path / "run"
    train(settings(root, epochs=1), run)
    (root / "train" / "good" / "003.png").write_bytes(b"no image")
    with pytest.raises(ModelError, match="its data is not that.*the bytes of its images changed"):
        train(settings(root, epochs=2), run, resume=True)
    (root / "train" / "good" / "003.png").unlink()
    with pytest.raises(ModelError, match="its data is not that.*its train changed"):
        train(settings(root, epochs=2), run, resume=True)


def test_the_command_line_resumes_with_the_same_words(data, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["train", "fake", "--data", str(data), "--out", str(run), "--batch", "4"]
    words += ["--lr", "0.02", "--size", "12"]
    assert cli.main([*words, "--epochs", "1", "--patience", "7"]) == 0
    training = json.loads((run / "config.json").read_text())["training"]
    assert (training["patience"], training["batch"], training["seed"]) == (7, 4, 0)
    assert cli.main([*words, "--epochs", "2", "--resume"]) == 0
    assert epochs(run) == [1, 2]
    # Without repeating them.
    assert cli.main(["train", "--out", str(run), "--resume", "--epochs", "3"]) == 0
    assert cli.main(["train", "fake", "--out", str(run), "--resume", "--epochs", "4"]) == 0
    assert epochs(run) == [1, 2, 3, 4]
    capsys.readouterr()
    for typed, message in [
        (["--lr", "0.03"], "its lr is not"),
        (["--seed", "3"], "its seed is not"),
        (["--size", "14"], "its config is not"),
    ]:
        assert cli.main(["train", "fake", "--out", str(run), "--resume", *typed]) == 1
        assert message in capsys.readouterr().err
    assert cli.main(["train", "adtr", "--out", str(run), "--resume"]) == 1
    assert "its model is not" in capsys.readouterr().err


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    names = events.Tags()["scalars"]
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in names}


def test_tensorboard_shows_every_epoch_once(data, tmp_path):
    run = tmp_path / "run"
    wish = {"patience": 0, "tensorboard": True}
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, **wish, epochs=4), run, report=tiny_runs.StopAt(2 * 26 + 5))
    assert len(list((run / "tensorboard").iterdir())) == 1
    train(settings(data, **wish, epochs=4), run, resume=True)
    found = scalars(run / "tensorboard")
    names = ["loss/training", "loss/validation", "learning rate", "images per second"]
    assert sorted(found) == sorted(names)
    history = checkpoint.read_history(run / "history.jsonl")
    for name, key in zip(names, ("loss", "validation_loss", "lr"), strict=False):
        assert found[name] == {r["epoch"]: pytest.approx(r[key], rel=1e-6) for r in history}
    speed = found["images per second"]
    assert speed.keys() == {1, 2, 3, 4} and min(speed.values()) > 0
    train(settings(data, patience=0, epochs=1), tmp_path / "without")
    assert not (tmp_path / "without" / "tensorboard").exists()


def test_tensorboard_that_is_missing_is_named_before_images_are_read(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    said = Say()
    with pytest.raises(AdfastError, match="pip install tensorboard"):
        train(settings(data, tensorboard=True), tmp_path / "run", report=said)
    assert not said.said and not list((tmp_path / "run").iterdir())
