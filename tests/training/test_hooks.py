"""What a model may ask of a training and of `load_run`; see `models/detector.py`."""

import os
import shutil
import stat
from collections import Counter

import pytest

torch = pytest.importorskip("torch")

import fake_model  # noqa: E402
import tiny_runs  # noqa: E402
from fake_model import Fake  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from test_train import assert_same_run  # noqa: E402

from adfast import models  # noqa: E402
from adfast.data.folder import load_image, to_network  # noqa: E402
from adfast.errors import DataError, ModelError  # noqa: E402
from adfast.training import TrainSettings, train  # noqa: E402
from adfast.training.reporting import Reporter  # noqa: E402


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    fake_model.register(monkeypatch)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_runs.make_images(tmp_path_factory.mktemp("data"))


def settings(data, **changes):
    fields = {"model": "fake", "config": {}, "precision": "f32", "batch": 5}
    return tiny_runs.settings(data, **{**fields, "epochs": 3, **changes})


class Count(Reporter):
    def __init__(self):
        self.counts = {}

    def phase(self, title, total, done=0):
        self.counts[title] = [total, done]
        self.current = title

    def advance(self, images, loss=None):
        self.counts[self.current][1] += images


@pytest.mark.parametrize("cache", ["features", "off"])
def test_every_image_is_shown_as_often_as_the_model_says(data, tmp_path, cache):
    counter = Count()
    info = train(settings(data, cache=cache), tmp_path / "run", report=counter)
    assert counter.counts["training"] == [3 * (8 * 3 + 2)] * 2
    assert "features of the frozen backbone" not in counter.counts
    batches = [entry for entry in Fake.log if entry[0] == "images"]
    assert [len(entry[1]) for entry in batches] == [5, 5, 5, 5, 4] * 3
    orders = []
    for epoch in range(3):
        shown = [mean for entry in batches[5 * epoch : 5 * epoch + 5] for mean in entry[1]]
        counts = Counter(round(mean, 6) for mean in shown)
        assert len(counts) == 8 and set(counts.values()) == {3}
        orders.append(shown)
    assert orders[0] != orders[1]  # shuffled anew
    # Told of every epoch, and of the best one before it is validated again at the end.
    epochs = [entry[1:] for entry in Fake.log if entry[0] == "epoch"]
    best = info["best"]["epoch"] - 1
    assert epochs == [(0, 3, True), (1, 3, True), (2, 3, True), (best, 3, False)]
    assert [entry[2] for entry in batches] == [1.0] * 5 + [1 + 1 / 3] * 5 + [1 + 2 / 3] * 5


# In the middle of the second epoch; in its validation.
@pytest.mark.parametrize("images", [26 + 10, 26 + 25])
def test_a_resume_with_visits_equals_one_run(data, tmp_path, images):
    train(settings(data), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(settings(data), tmp_path / "run", report=tiny_runs.StopAt(images))
    Fake.log.clear()
    train(settings(data), tmp_path / "run", resume=True)
    assert Fake.log[0] == ("epoch", 1 if images == 36 else 2, 3, True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def maps(root, names, colour, bias=0.0):
    found = []
    for name in names:
        image = to_network(load_image(root / name), (20, 24), (16, 16)).double()
        found.append((image - colour).square().mean(dim=0) + bias)
    return torch.stack(found)


def test_the_mean_map_is_that_of_the_training_images_and_is_kept(data, tmp_path):
    run = tmp_path / "run"
    info = train(settings(data), run)
    seen = []

    def track(items, what):
        seen.append((len(items), what))
        return items

    model, _ = models.load_run(run, track=track)
    assert seen == [(8, "mean map")]
    colour = load_file(run / "best.safetensors")["colour"][0]
    expected = maps(data, info["data"]["train"], colour).mean(dim=0)
    assert model.mean_map.dtype == torch.float32 and expected.max() > 0.01
    torch.testing.assert_close(model.mean_map[0, 0].double(), expected, rtol=1e-6, atol=1e-8)

    again, _ = models.load_run(run, track=track)
    assert len(seen) == 1 and torch.equal(again.mean_map, model.mean_map)
    # Stale: computed with other weights; damaged; of another size.
    path = run / "mean_map.safetensors"
    with safe_open(path, framework="pt") as file:
        stamp = file.metadata()
    for tensors, metadata in [
        ({"mean_map": torch.ones(1, 1, 16, 16)}, {**stamp, "best_sha256": "0" * 64}),
        ({"mean_map": torch.ones(1, 1, 8, 8)}, stamp),
    ]:
        save_file(tensors, path, metadata=metadata)
        assert torch.equal(models.load_run(run, track=track)[0].mean_map, model.mean_map)
    path.write_bytes(path.read_bytes()[:50])
    assert torch.equal(models.load_run(run, track=track)[0].mean_map, model.mean_map)
    assert len(seen) == 4
    # Kept beside the weights, the map does not need the images any more.
    save_file({"mean_map": torch.ones(1, 1, 16, 16)}, path, metadata=stamp)
    assert (models.load_run(run, track=track)[0].mean_map == 1).all() and len(seen) == 4


def test_fewer_images_for_the_mean_map(data, tmp_path):
    info = train(settings(data, config={"mean_map_images": 3}), tmp_path / "run")
    model, _ = models.load_run(tmp_path / "run")
    colour = load_file(tmp_path / "run" / "best.safetensors")["colour"][0]
    names = [info["data"]["train"][i] for i in (0, 2, 5)]  # of eight
    expected = maps(data, names, colour).mean(dim=0)
    torch.testing.assert_close(model.mean_map[0, 0].double(), expected, rtol=1e-6, atol=1e-8)


def test_a_run_that_cannot_be_written_keeps_its_mean_map_in_memory(data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(settings(data), run)
    if os.geteuid() == 0:  # whom modes do not stop

        def refuse(**options):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("adfast.files.tempfile.mkstemp", refuse)
    run.chmod(stat.S_IRUSR | stat.S_IXUSR)
    said = []
    model, _ = models.load_run(run, log=said.append)
    run.chmod(stat.S_IRWXU)
    assert model.mean_map.max() > 0 and not (run / "mean_map.safetensors").exists()
    assert len(said) == 1 and "mean map is not kept" in said[0] and "Permission denied" in said[0]


def test_a_mean_map_without_the_images_is_refused(data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    info = train(settings(root), tmp_path / "run")
    name = info["data"]["train"][2]
    (root / name).unlink()
    with pytest.raises(DataError, match=f"1 of 8 are missing, first .*{name}.*put them back"):
        models.load_run(tmp_path / "run")


def test_a_checkpoint_of_another_model_or_config_is_named(data, tmp_path):
    train(settings(data, epochs=1), tmp_path / "fake")
    other = {"model": "adtr", "config": tiny_runs.ADTR, "epochs": 1}
    train(settings(data, **other), tmp_path / "adtr")
    best = tmp_path / "fake" / "best.safetensors"
    kept = best.read_bytes()

    shutil.copy(tmp_path / "adtr" / "best.safetensors", best)
    with pytest.raises(ModelError, match="it is a checkpoint of adtr, expected fake"):
        models.load_run(tmp_path / "fake")

    best.write_bytes(kept)
    config = tmp_path / "fake" / "config.json"
    config.write_text(config.read_text().replace('"bias": 0.0', '"bias": 0.5'))
    with pytest.raises(ModelError, match="best.safetensors.*bias is 0.0, expected 0.5"):
        models.load_run(tmp_path / "fake")

    # A file that does not say whose it is: by its tensors.
    save_file({"colour": torch.zeros(1, 4), "shape": torch.zeros(1)}, best)
    with pytest.raises(ModelError, match=r"unknown shape; colour is \[1, 4\], expected \[1, 3,"):
        models.load_run(tmp_path / "fake")
    assert TrainSettings(model="fake").epochs == 3
