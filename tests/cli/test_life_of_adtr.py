"""ADTR from the command line to the engine, and ADTR+ after it."""

import importlib.util
import json

import pytest

from adfast import cli
from adfast.data.scenes import generate


@pytest.fixture(scope="module")
def life(tmp_path_factory):
    """Train a small ADTR on a few generated images, for one epoch."""
    for package in ("torch", "timm", "onnx", "onnxruntime", "onnxscript", "PIL"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    root = tmp_path_factory.mktemp("life")
    generate(root / "data", train=10, good=1, per_defect=1, size=64)
    words = ["train", "adtr", "--data", root / "data", "--backbone", "tf_efficientnet_b0"]
    words += ["--weights", "none", "--epochs", "1", "--size", "64", "--batch", "4"]
    assert cli.main([*map(str, words), "--out", str(root / "adtr")]) == 0
    return root


def test_the_engine_gives_the_answers_of_adtr(life, capsys):
    plan = str(life / "adtr.plan")
    assert cli.main(["build", str(life / "adtr"), "-o", plan, "--precision", "f32"]) == 0
    assert cli.main(["selftest", plan]) == 0
    capsys.readouterr()
    assert cli.main(["info", plan, "--json"]) == 0
    contents = json.loads(capsys.readouterr().out)
    assert contents["fields"]["model"] == "adtr"
    assert contents["fields"]["score.reduction"] == "pooled_max"
    assert contents["parity"]["engine_f32"]["map_max_rel"] < 1e-4


def test_adtr_plus_goes_on_from_it(life):
    words = ["train", "adtr_plus", "--data", life / "data", "--weights", life / "adtr"]
    words += ["--epochs", "1", "--out", life / "plus"]
    assert cli.main([*map(str, words)]) == 0
    plan = str(life / "plus.plan")
    assert cli.main(["build", str(life / "plus"), "-o", plan, "--precision", "f32"]) == 0
    assert cli.main(["selftest", plan]) == 0
