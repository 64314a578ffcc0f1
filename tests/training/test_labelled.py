"""ADTR+ learns from images that somebody has labelled."""

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tiny_runs  # noqa: E402
from PIL import Image  # noqa: E402
from test_train import assert_same_run  # noqa: E402

from adfast import cli, models  # noqa: E402
from adfast.errors import DataError, ModelError  # noqa: E402
from adfast.models.adtr_plus import ADTRPlus  # noqa: E402
from adfast.training import train  # noqa: E402
from adfast.training.labelled import Labelled  # noqa: E402
from adfast.training.reporting import Reporter  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_runs.make_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def adtr(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "adtr"
    fields = {"model": "adtr", "config": tiny_runs.ADTR, "precision": "f32", "epochs": 1}
    train(tiny_runs.settings(data, **fields), out)
    return out


def pixels(seed, side=40):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.fixture
def labelled(tmp_path):
    """Three scratched images, marked in the right lower quarter."""
    root = tmp_path / "labelled"
    for folder in ("test/good", "test/scratch", "ground_truth/scratch"):
        (root / folder).mkdir(parents=True)
    Image.fromarray(pixels(9)).save(root / "test/good/0.png")
    mask = np.zeros((40, 40), np.uint8)
    mask[21:38, 21:38] = 255
    for i in range(3):
        Image.fromarray(pixels(i)).save(root / f"test/scratch/{i}.png")
        Image.fromarray(mask).save(root / f"ground_truth/scratch/{i}_mask.png")
    return root


def plus(data, adtr, labelled, config=None, **changes):
    fields = {"model": "adtr_plus", "weights": str(adtr), "precision": "f32", "lr": 1e-3}
    fields |= {"config": {"top": 3, **(config or {})}, "labelled": labelled and str(labelled)}
    return tiny_runs.settings(data, **{**fields, "epochs": 2, "batch": 4, **changes})


def read(root, **changes):
    options = {"masks": True, "resize": (32, 32), "crop": (32, 32), "grid": (2, 2)}
    options |= {"fraction": 0.7, "seed": 0, "report": Reporter()}
    return Labelled(root, **{**options, **changes})


class Say(Reporter):
    def __init__(self):
        self.said = []

    def message(self, text):
        self.said.append(text)


def test_masks_come_to_the_grid_as_their_images(labelled):
    found = read(labelled)
    assert found.images.shape == (3, 3, 32, 32) and found.labels.shape == (3, 1, 2, 2)
    assert found.labels[0, 0].tolist() == [[0, 0], [0, 1]]
    assert read(labelled, grid=(4, 4)).labels[1, 0].tolist() == (
        [[0, 0, 0, 0]] * 2 + [[0, 0, 1, 1]] * 2
    )
    # A crop is that of the image: of the middle 16 of 32, from 8 to 24, marked from 17 on.
    cropped = read(labelled, crop=(16, 16), grid=(8, 8)).labels[0, 0]
    assert cropped.tolist() == [[float(i >= 4 and j >= 4) for j in range(8)] for i in range(8)]
    shutil.rmtree(labelled / "ground_truth")
    assert (read(labelled, masks=False).labels == 1).all()
    assert len(found.train) == 2 and len(found.held) == 1
    assert sorted([*found.train.tolist(), *found.held.tolist()]) == [0, 1, 2]
    generator = torch.Generator().manual_seed(0)
    assert sorted(found.draw(2, generator).tolist()) == found.train.tolist()
    assert set(found.draw(5, generator).tolist()) == set(found.train.tolist())


def test_a_share_of_every_batch_is_labelled(data, adtr, labelled, tmp_path, monkeypatch):
    seen = []
    losses, of_labelled = ADTRPlus.losses, ADTRPlus.labelled_losses

    def good(self, image, features=None):
        seen.append(("good", len(image), self.training))
        return losses(self, image, features)

    def bad(self, image, labels):
        assert labels.shape[1:] == (1, 2, 2)
        seen.append(("labelled", len(image), self.training))
        return of_labelled(self, image, labels)

    monkeypatch.setattr(ADTRPlus, "losses", good)
    monkeypatch.setattr(ADTRPlus, "labelled_losses", bad)
    settings = plus(data, adtr, labelled, {"labelled_share": 0.5}, epochs=1)
    info = train(settings, tmp_path / "run")
    # Eight good images in steps of 2, two labelled ones beside; then validation.
    assert seen[:8] == [("good", 2, True), ("labelled", 2, True)] * 4
    assert seen[8:] == [("good", 2, False), ("labelled", 1, False)] * (len(seen[8:]) // 2)
    told = info["data"]["labelled"]
    assert told["images"] == [f"test/scratch/{i}.png" for i in range(3)]
    assert told["root"] == str(labelled.resolve()) and told["in_test_set"] == 0
    assert len(told["sha256"]) == 64


def test_the_loss_is_that_of_the_shares(data, adtr, labelled, tmp_path):
    """Without confetti, dropout and steps, so that every number can be computed again."""
    config = {"anomalies": 0, "labelled_share": 0.25}
    info = train(plus(data, adtr, labelled, config, lr=1e-12, epochs=1), tmp_path / "run")
    model, _ = models.load_run(tmp_path / "run")
    found = read(labelled, fraction=0.8)

    def images(names):
        from adfast.data.folder import load_image, to_network

        return torch.stack([to_network(load_image(data / n), (32, 32), (32, 32)) for n in names])

    with torch.no_grad():
        good = model.losses(images(info["data"]["validation"])).mean()
        bad = model.labelled_losses(found.images[found.held], found.labels[found.held]).mean()
    expected = (0.75 * good + 0.25 * bad).item()
    assert info["best"]["validation_loss"] == pytest.approx(expected, rel=1e-5)
    assert abs(bad - good) > 0.01  # so the shares matter


def test_the_labelled_images_are_pushed_away(data, adtr, labelled, tmp_path):
    config = {"anomalies": 0, "alpha": 0.5, "labels": "image", "labelled_share": 0.5}
    settings = plus(data, adtr, labelled, config, epochs=8)
    train(settings, tmp_path / "run")
    before, after = (models.load_run(run)[0] for run in (adtr, tmp_path / "run"))
    images = read(labelled, fraction=0.8, masks=False).images
    with torch.no_grad():
        assert after(images)[1].mean() > 1.1 * before(images)[1].mean()


@pytest.mark.parametrize("labels", ["pixel", "image"])
def test_ctrl_c_and_resume_equal_one_run(data, adtr, labelled, tmp_path, labels):
    settings = plus(data, adtr, labelled, {"labels": labels})
    train(settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "run", report=tiny_runs.StopAt(13))
    train(settings, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    Image.fromarray(pixels(7)).save(labelled / "test/scratch/1.png")
    longer = plus(data, adtr, labelled, {"labels": labels}, epochs=3)
    with pytest.raises(ModelError, match="its data is not that.*its labelled changed"):
        train(longer, tmp_path / "run", resume=True)


def test_images_of_the_test_set_are_not_taken_in_silence(data, adtr, labelled, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    shutil.copytree(labelled / "test", root / "test")
    (root / "test/scratch/2.png").unlink()
    said = Say()
    info = train(plus(root, adtr, labelled, epochs=1), tmp_path / "run", report=said)
    assert any("2 of the 3 labelled images are test images" in text for text in said.said)
    assert info["data"]["labelled"]["in_test_set"] == 2


def test_what_cannot_be_learned_from_is_refused_before_images_are_read(
    data, adtr, labelled, tmp_path
):
    root = tmp_path / "data"
    shutil.copytree(data, root)

    def refused(kind, message, config=None, folder=labelled, **changes):
        with pytest.raises(kind, match=message):
            train(plus(root, adtr, folder, config, **changes), tmp_path / "run")
        assert not (tmp_path / "run" / "config.json").exists()

    mask = labelled / "ground_truth/scratch/1_mask.png"
    kept = mask.read_bytes()
    Image.new("L", (40, 39), 255).save(mask)
    refused(DataError, "1 of 3 labelled.*1_mask.png is 40 x 39, expected that of.*40 x 40")
    Image.new("L", (40, 40), 0).save(mask)
    refused(DataError, "1_mask.png: nothing is marked")
    mask.unlink()
    refused(DataError, "scratch/1.png has no mask; expected .*1_mask.png .or use --labels image")
    mask.write_bytes(kept)
    image = labelled / "test/scratch/0.png"
    image.write_bytes(image.read_bytes()[:60])
    refused(DataError, "0.png")
    refused(DataError, "no labelled anomalies: .*expected the MVTec layout", folder=tmp_path)
    shutil.rmtree(labelled / "test/scratch")
    refused(DataError, "no labelled anomalies: it has no folder of a defect")
    refused(ModelError, "anomalies is 0 and there are no labelled", {"anomalies": 0}, folder=None)
    other = {"model": "adtr", "weights": "none", "config": tiny_runs.ADTR}
    with pytest.raises(ModelError, match="adtr does not learn from labelled images"):
        train(tiny_runs.settings(root, **other, labelled=str(labelled)), tmp_path / "run")


def test_the_command_line_takes_labelled_images(data, adtr, labelled, tmp_path):
    out = tmp_path / "run"
    shutil.rmtree(labelled / "ground_truth")
    words = ["train", "adtr_plus", "--data", data, "--weights", adtr, "--labelled", labelled]
    words += ["--labels", "image", "--anomalies", "0", "--labelled-share", "0.5", "--epochs", "1"]
    assert cli.main([str(word) for word in [*words, "--out", out]]) == 0
    info = json.loads((out / "config.json").read_text())
    assert info["config"]["labelled_share"] == 0.5 and info["config"]["anomalies"] == 0
    assert info["training"]["labelled"] == str(labelled)
    assert cli.main(["train", "--out", str(out), "--resume", "--epochs", "2"]) == 0
