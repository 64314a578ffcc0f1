"""A model's life on images of 16 bits a sample: the format is named once, and kept with the run."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

import adfast
from adfast import cli
from adfast.data.scenes import generate
from adfast.images import largest_value, read_image, write_png
from adfast.parity import difference


def run(*words) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def life(tmp_path_factory):
    """Train for an epoch on generated images as a camera of Mono12 would save them, and build."""
    for package in ("torch", "timm", "onnx", "onnxruntime", "onnxscript", "scipy", "PIL"):
        if importlib.util.find_spec(package) is None:  # not imported: training chooses the order
            pytest.skip(f"{package} is not installed")
    root, rng = tmp_path_factory.mktemp("deep"), np.random.default_rng(0)
    generate(root / "data", train=15, good=3, per_defect=1, size=64)
    for folder in ("train", "test"):
        for path in (root / "data" / folder).rglob("*.png"):
            grey = read_image(path).reshape(64, 64, -1).mean(axis=2)
            frame = grey * (largest_value("Mono12") / 255) + rng.uniform(0, 15, grey.shape)
            write_png(path, frame.clip(0, 4095).astype(np.uint16))
    words = ["train", "gtrans", "--data", root / "data", "--weights", "none", "--size", 64]
    words += ["--backbone", "resnet18", "--quick", "--epochs", 1, "--batch", 4]
    assert run(*words, "--pixel-format", "Mono12", "--out", root / "run") == 0
    return root


@pytest.fixture(scope="module")
def plan(life):
    assert run("build", life / "run", "-o", life / "deep.plan", "--precision", "f32") == 0
    return life / "deep.plan"


def test_the_deployed_result_equals_the_trained_one(life, plan):
    from adfast.run_engine import RunEngine

    engine, trained = adfast.load(plan, device="cpu", precision="f32"), RunEngine(life / "run")
    paths = sorted((life / "data/test").rglob("*.png"))
    got = [engine.predict(path, pixel_format="Mono12") for path in paths]
    frames = [read_image(path, "Mono12") for path in paths]
    expected = [trained.predict(frame, pixel_format="Mono12") for frame in frames]
    assert max(frame.max() for frame in frames) > 2000
    answers = [[(r.score, r.network_map) for r in results] for results in (expected, got)]
    assert difference(*answers)["map_max_rel"] < 1e-4
    for a, b in zip(got, expected, strict=True):
        assert a.score == pytest.approx(b.score, rel=1e-4)
        np.testing.assert_allclose(a.map, b.map, rtol=1e-3, atol=1e-4 * b.map.max())


def test_the_plan_says_what_it_was_built_on_and_tests_itself(life, plan, capsys):
    assert run("info", plan, "--json") == 0
    contents = json.loads(capsys.readouterr().out)
    assert contents["calibration"]["pixel_format"] == "Mono12"
    assert contents["provenance"]["model"]["training"]["pixel_format"] == "Mono12"
    assert contents["parity"]["engine_f32"]["map_max_rel"] < 1e-4
    assert [each["pixel_format"] for each in contents["golden"]] == 3 * ["Mono12"]
    assert run("selftest", plan) == 0
    engine = adfast.load(plan, device="cpu")
    info = json.loads((life / "run/config.json").read_text())
    paths = [life / "data" / name for name in info["data"]["validation"]]
    assert engine.threshold in [engine.predict(p, pixel_format="Mono12").score for p in paths]


def test_a_run_is_evaluated_without_naming_the_format_again(life, plan, capsys):
    scores = {}
    for words in ([life / "run"], [plan, "--pixel-format", "Mono12"]):
        assert run("eval", *words, "--data", life / "data", "--resamples", 0, "--json") == 0
        result = json.loads(capsys.readouterr().out)
        assert result["pixel_format"] == "Mono12"
        scores[str(words[0])] = [row["score"] for row in result["rows"]]
    assert scores[str(life / "run")] == pytest.approx(scores[str(plan)], rel=1e-4)


@pytest.mark.parametrize("command", ["build", "eval", "train"])
def test_another_format_than_the_run_s_is_refused(life, capsys, command):
    words = {
        "build": ["build", life / "run", "-o", life / "other.plan"],
        "eval": ["eval", life / "run", "--data", life / "data"],
        "train": ["train", "gtrans", "--data", life / "data", "--out", life / "run", "--resume"],
    }[command]
    assert run(*words, "--pixel-format", "Mono16") == 1
    error = capsys.readouterr().err
    assert "Mono16" in error and "Mono12" in error
    assert not (life / "other.plan").exists()


def test_all_precisions_are_tried_on_the_format(life, capsys):
    assert run("build", life / "run", "-o", life / "auto.plan", "--precision", "auto") == 0
    capsys.readouterr()
    assert run("info", life / "auto.plan", "--json") == 0
    assert "engine_int8" in json.loads(capsys.readouterr().out)["parity"]
    image = next((life / "data/test/good").iterdir())
    result = adfast.load(life / "auto.plan").predict(image, pixel_format="Mono12")
    assert np.isfinite(result.score)


def test_a_format_without_images_is_refused(life, capsys):
    assert run("export", life / "run", "-o", life / "model.onnx") == 0
    words = ["build", life / "model.onnx", "-o", life / "onnx.plan", "--pixel-format", "Mono12"]
    assert run(*words) == 1
    assert "there are no images" in capsys.readouterr().err
    words += ["--calibrate", life / "data/train/good", "--precision", "f32"]
    assert run(*words) == 0
    capsys.readouterr()
    assert run("build", "--help") == 0
    assert "--pixel-format {Mono10,Mono12,Mono16}" in capsys.readouterr().out
