"""CIFAR-10 as a one-class data set, from files in its published binary format."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from adfast import cli
from adfast.data import cifar
from adfast.errors import AdfastError, DataError
from adfast.images import read_image

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("ADFAST_TEST_DATA", ROOT.parent / "shared" / "data"))
REAL = DATA / "cifar10" / "lossless"
NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()


def write_records(path, labels, images):
    """Label, then all red, all green, all blue: the long way."""
    data = bytearray()
    for label, image in zip(labels, images, strict=True):
        data.append(label)
        for channel in range(3):
            for row in range(32):
                data += bytes(image[row, :, channel])
    path.write_bytes(data)


def write_folder(folder, training, test):
    """Write (labels, images) as the published files are named; training is split in five."""
    folder.mkdir(parents=True)
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    parts = np.array_split(np.arange(len(training[0])), 5)
    for i, part in enumerate(parts, 1):
        write_records(folder / f"data_batch_{i}.bin", training[0][part], training[1][part])
    write_records(folder / "test_batch.bin", *test)
    return folder


def made_up(count, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.uint8) % 10
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return labels, images


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "cifar", made_up(60, 0), made_up(40, 1))


def test_one_class_becomes_a_data_set(folder, tmp_path, capsys):
    out = tmp_path / "new" / "cat"
    words = ["cifar10", str(folder), "--normal", "cat", "--out", str(out), "--anomalies", "all"]
    assert cli.main(words) == 0
    captured = capsys.readouterr()
    assert "6 images to train on, 4 good and 36 anomalous ones of 9 classes" in captured.out
    assert "data_batch_1 has 12 images, the published one 10000" in captured.err
    labels, images = made_up(60, 0)
    found = sorted((out / "train" / "good").iterdir())
    assert len(found) == 6 and found[0].name == "data_batch_1_00003.png"
    for path in found:
        batch, at = int(path.stem.split("_")[2]), int(path.stem.split("_")[3])
        index = (batch - 1) * 12 + at
        assert labels[index] == 3 and (read_image(path) == images[index]).all()
    labels, images = made_up(40, 1)
    tested = sorted((out / "test").rglob("*.png"))
    assert len(tested) == 40 and {p.parent.name for p in tested} == {*NAMES, "good"} - {"cat"}
    for path in tested:
        index = int(path.stem)
        label = "cat" if path.parent.name == "good" else path.parent.name
        assert NAMES[labels[index]] == label and (read_image(path) == images[index]).all()
    assert list(out.parent.iterdir()) == [out]  # nothing else is left
    assert cli.main(words) == 1
    assert "exists already" in capsys.readouterr().err


def test_the_papers_test_set_has_as_many_anomalies_as_good_images(folder, tmp_path):
    def drawn(name, *words):
        out = tmp_path / name
        made = ["cifar10", str(folder), "--normal", "ship", "--out", str(out)]
        assert cli.main([*made, *words]) == 0
        assert len(list((out / "test" / "good").iterdir())) == 4
        return {p.name for p in (out / "test").rglob("*.png") if p.parent.name != "good"}

    first = drawn("a")
    assert len(first) == 4 and first == drawn("b") and first != drawn("c", "--seed", "1")


def test_what_is_wrong_with_the_files_is_said(folder, tmp_path, capsys):
    out = tmp_path / "out"

    def said(normal="cat"):
        words = ["cifar10", str(folder), "--normal", normal, "--out", str(out)]
        assert cli.main(words) == 1 and not out.exists()
        return capsys.readouterr().err

    assert "class is 'lion'; choose one of airplane, automobile" in said("lion")
    batch = folder / "data_batch_4.bin"
    kept = batch.read_bytes()
    batch.write_bytes(kept[:-100])
    assert f"data_batch_4.bin has {len(kept) - 100} bytes" in said()
    batch.write_bytes(b"")
    assert "data_batch_4.bin has 0 bytes" in said()
    batch.write_bytes(kept[: cifar.RECORD] + b"\x0a" + kept[cifar.RECORD + 1 :])
    assert "record 1 has the label 10, expected 0 to 9" in said()
    batch.unlink()
    (folder / "test_batch.bin").unlink()
    assert "lacks data_batch_4.bin, test_batch.bin" in said()
    meta = folder / "batches.meta.txt"
    for text in ("", "cat\ncat\n", "good\ncat\n", "../cat\ndog\n"):
        meta.write_text(text)
        assert "expected the names of the classes" in said()
    meta.unlink()
    assert "batches.meta.txt" in said() and not [p for p in tmp_path.iterdir() if p != folder]


def test_a_failure_leaves_nothing_behind(folder, tmp_path, monkeypatch):
    names, training, test = cifar.read(folder)
    left = [3]

    def fail(array):
        left[0] -= 1
        if not left[0]:
            raise OSError(28, "No space left on device")
        return b""

    monkeypatch.setattr(cifar, "encode_png", fail)
    with pytest.raises(AdfastError, match="No space left"):
        cifar.write_one_class(names, training, test, "cat", tmp_path / "out")
    assert list(tmp_path.iterdir()) == [folder]
    with pytest.raises(DataError, match="0 test images"):
        empty = cifar.Batch("test", test.labels[:1], test.images[:1])
        cifar.write_one_class(names, training, empty, "cat", tmp_path / "out")


WEIGHTS = DATA / "weights" / "resnet18_imagenet_bnfolded_conv1_to_layer3.npz"
SMALL = {"backbone": "resnet18", "levels": [1, 2], "dim": 32, "blocks": 1, "hidden": 64}
SMALL |= {"crop": [32, 32], "resize": [32, 32], "grid": [8, 8], "upsample": False}
TINY = ["--backbone", "resnet18", "--levels", "1,2", "--weights", "none", "--epochs", "2"]


def train(data, out, *words):
    words = ["train", "adtr", "--cifar10", "--data", data, "--out", out, *TINY, *words]
    assert cli.main([str(word) for word in words]) == 0
    return json.loads((out / "config.json").read_text())


def test_adtr_trains_on_it_with_the_papers_settings(folder, tmp_path):
    pytest.importorskip("torch")
    words = ["cifar10", str(folder), "--normal", "all", "--out", str(tmp_path / "sets")]
    assert cli.main(words) == 0
    assert sorted(path.name for path in (tmp_path / "sets").iterdir()) == sorted(NAMES)
    info = train(tmp_path / "sets" / "dog", tmp_path / "run")
    config, training = info["config"], info["training"]
    assert config["crop"] == config["resize"] == [32, 32] and config["grid"] == [8, 8]
    assert config["upsample"] is False and config["pool"] == 8
    assert training["batch"] == 128 and len(info["data"]["train"]) == 5
    assert train(tmp_path / "sets" / "cat", tmp_path / "cat", "--batch", "2", "--quick")


def test_a_smoke_figure_on_real_images(tmp_path):
    """The protocol's code on 4000 real images: that it runs, not what the paper's model reaches.

    Two epochs of a tiny model. The first 3000 images stand for the training files, the last 1000
    for the test file.
    """
    if not (REAL / "labels.npy").is_file():
        pytest.skip(f"{REAL} is not here; set ADFAST_TEST_DATA to where it is")
    torch = pytest.importorskip("torch")
    from adfast import models, training
    from adfast.data.folder import load_image, test_set, to_network
    from adfast.metrics import image_auroc
    from adfast.training import TrainSettings

    sheets = [read_image(REAL / f"cifar10_batch_{i}.png") for i in range(4)]
    images = np.concatenate([sheet.reshape(-1, 32, 32, 3) for sheet in sheets])
    labels = np.load(REAL / "labels.npy").astype(np.uint8)
    assert images.shape == (4000, 32, 32, 3) and labels.shape == (4000,)
    folder = write_folder(
        tmp_path / "cifar", (labels[:3000], images[:3000]), (labels[3000:], images[3000:])
    )
    figures = []
    for normal in ("airplane", "frog"):
        data = tmp_path / normal
        assert cli.main(["cifar10", str(folder), "--normal", normal, "--out", str(data)]) == 0
        settings = TrainSettings(
            **{"model": "adtr", "config": SMALL, "data": str(data), "epochs": 2, "batch": 128},
            weights=str(WEIGHTS) if WEIGHTS.is_file() else "none",
        )
        info = training.train(settings, tmp_path / f"run-{normal}")
        assert (
            len(info["data"]["train"]) + len(info["data"]["validation"])
            == (labels[:3000] == NAMES.index(normal)).sum()
        )
        model, _ = models.load_run(tmp_path / f"run-{normal}")
        tested = test_set(data)
        truth = [label != "good" for _, label, _ in tested]
        frames = [to_network(load_image(path), (32, 32), (32, 32)) for path, _, _ in tested]
        with torch.no_grad():
            scores, maps = model(torch.stack(frames))
        assert maps.shape == (len(tested), 1, 8, 8)
        assert sum(truth) == (labels[3000:] == NAMES.index(normal)).sum() == len(truth) / 2
        figures.append(image_auroc(np.array(truth), scores.numpy()))
    print(f"smoke figure (tiny ADTR, 2 epochs, 2 classes): mean image AUROC {np.mean(figures):.3f}")
    assert all(0 < figure < 1 for figure in figures)
