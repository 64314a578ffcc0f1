"""The option --pixel-format of the commands that read images."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import adfast
from adfast import cameras, cli
from adfast.images import read_image, write_png

sys.path.insert(0, str(Path(__file__).parent))
from fake import FakeEngine  # noqa: E402

NAMED = ["--pixel-format", "Mono12"]


@pytest.fixture
def data(tmp_path):
    """A labelled set of a 12-bit camera, masks of 8 bits; the brighter, the worse."""
    root, rng = tmp_path / "data", np.random.default_rng(4)
    names = (*(f"train/good/{i}" for i in range(12)), "test/good/0", "test/good/1", "test/dent/0")
    for name in names:
        frame = rng.integers(1400, 2400, (40, 50), dtype=np.uint16)
        if "dent" in name:
            frame[15:20, 20:30] = 4095
            (root / "ground_truth/dent").mkdir(parents=True)
            mask = np.where(frame == 4095, 255, 0).astype(np.uint8)
            write_png(root / "ground_truth/dent/0_mask.png", mask)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(root / f"{name}.png", frame)
    return root


@pytest.fixture
def fake(monkeypatch):
    for command in ("predict", "eval"):
        module = __import__(f"adfast.commands.{command}", fromlist=["load_engine"])
        monkeypatch.setattr(module, "load_engine", lambda args: FakeEngine())


def run(*words) -> int:
    return cli.main([str(word) for word in words])


def test_predict(tmp_path, data, fake, capsys):
    assert run("predict", "p.plan", data / "test", "-o", tmp_path / "out", *NAMED) == 0
    assert "3 images, 1 anomalous" in capsys.readouterr().out
    picture = read_image(tmp_path / "out/dent/0_overlay.png")
    assert picture.dtype == np.uint8 and picture[2, 2].max() > 40
    assert run("predict", "p.plan", data / "test") == 3
    assert "--pixel-format" in capsys.readouterr().err
    assert run("predict", "p.plan", data / "test", "--pixel-format", "Mono14") == 2
    assert "'Mono10', 'Mono12', 'Mono16'" in capsys.readouterr().err


def test_predict_is_what_the_engine_says_of_the_file(data, tiny_plan, capsys):
    image = data / "test/dent/0.png"
    assert run("predict", tiny_plan, image, "--json", *NAMED) == 0
    (record,) = json.loads(capsys.readouterr().out)["results"]
    engine = adfast.load(tiny_plan)
    frame = read_image(image, "Mono12")
    expected = engine.predict(frame, pixel_format="Mono12").score
    assert record["score"] == expected == engine.predict(image, pixel_format="Mono12").score
    (batched,) = engine.predict_batch([image], pixel_format="Mono12")
    assert batched.score == expected
    with engine.stream() as stream:
        stream.submit(image, pixel_format="Mono12")
        assert stream.poll(timeout=10).result.score == expected
    frames = cameras.folder(image.parent, watch=False, pixel_format="Mono12")
    (got,) = engine.stream().run(frames)
    assert got.result.score == expected


def test_eval(tmp_path, data, fake, capsys):
    words = ("eval", "p.plan", "--data", data, "--resamples", 0)
    assert run(*words, "--out", tmp_path / "report", "--json", *NAMED) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["pixel_format"] == "Mono12" and result["metrics"]["image_auroc"] == 1
    assert "Mono12" in (tmp_path / "report/report.html").read_text()
    assert run(*words) == 1
    assert "--pixel-format" in capsys.readouterr().err


def test_calibrate(tmp_path, data, tiny_plan, capsys):
    words = ("calibrate", tiny_plan, "--good", data / "train/good", "-o", tmp_path / "line.plan")
    assert run(*words) == 1
    assert "--pixel-format" in capsys.readouterr().err
    assert run(*words, "--precision", "f32", *NAMED) == 0
    engine = adfast.load(tmp_path / "line.plan", precision="f32")
    assert engine.info["calibration"]["pixel_format"] == "Mono12"
    paths = sorted((data / "train/good").iterdir())
    scores = [engine.predict(path, pixel_format="Mono12").score for path in paths]
    assert engine.threshold in scores
    assert run("info", tmp_path / "line.plan") == 0
    assert "12, folder good, Mono12" in capsys.readouterr().out


def test_tile(tmp_path, data, capsys):
    words = ("tile", data, "--tile", "32", "--out", tmp_path / "tiles")
    assert run(*words) == 1
    assert "--pixel-format" in capsys.readouterr().err
    assert run(*words, *NAMED) == 0
    whole = read_image(data / "train/good/3.png", "Mono12")
    first = read_image(tmp_path / "tiles/train/good/3_y0_x0.png", "Mono12")
    np.testing.assert_array_equal(first, whole[:32, :32])
    for mask in (tmp_path / "tiles/ground_truth/dent").iterdir():
        assert read_image(mask).any()


def test_every_command_that_reads_images_explains_it(capsys):
    for words in (["train", "gtrans"], ["tile"], ["predict"], ["eval"], ["calibrate"]):
        assert run(*words, "--help") == 0
        text = capsys.readouterr().out
        assert "--pixel-format {Mono10,Mono12,Mono16}" in text and "never guessed" in text
