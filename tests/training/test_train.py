"""Training: what it leaves behind, resuming, interruptions and early errors."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from tiny_runs import CONFIG, StopAt, assert_losses_agree, make_images, settings  # noqa: E402

from adfast import models  # noqa: E402
from adfast.errors import AdfastError, DataError, ModelError  # noqa: E402
from adfast.training import checkpoint, train  # noqa: E402
from adfast.training.feed import Feed  # noqa: E402
from adfast.training.reporting import Reporter  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run of four epochs without interruption."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(settings(data, precision="f32"), out)
    return out


def state(run):
    tensors = load_file(run / "last.safetensors")
    return {key: tensor for key, tensor in tensors.items()}


def assert_same_run(actual, expected):
    a, b = state(actual), state(expected)
    assert a.keys() == b.keys()
    different = [key for key in a if not torch.equal(a[key], b[key])]
    assert not different
    best_a, best_b = (load_file(run / "best.safetensors") for run in (actual, expected))
    assert all(torch.equal(best_a[key], best_b[key]) for key in best_b)
    histories = [checkpoint.read_history(run / "history.jsonl") for run in (actual, expected)]
    for history in histories:
        for record in history:
            del record["seconds"]
    assert histories[0] == histories[1]


def test_a_run_leaves_what_is_promised(data, whole):
    info = json.loads((whole / "config.json").read_text())
    assert info["finished"] is True and info["model"] == "gtrans"
    assert len(info["data"]["train"]) == 8 and len(info["data"]["validation"]) == 2
    assert all(name.startswith("train/good/") for name in info["data"]["train"])
    assert info["data"]["root"] == str(data.resolve()) and len(info["data"]["sha256"]) == 64
    assert info["weights"] == {"source": "none (random)"}
    history = checkpoint.read_history(whole / "history.jsonl")
    assert [record["epoch"] for record in history] == [1, 2, 3, 4]
    assert history[-1]["loss"] < history[0]["loss"]
    # Eq. 20: the rate has fallen to 0.9 of the first at the end.
    assert history[-1]["lr"] == pytest.approx(0.9e-3)
    best = min(history, key=lambda record: record["validation_loss"])
    assert info["best"]["epoch"] == best["epoch"]
    names = sorted(path.name for path in whole.iterdir())
    assert names == ["best.safetensors", "config.json", "history.jsonl", "last.safetensors"]


def test_the_loaded_run_has_the_measured_lambda(data, whole):
    """Ours: the ratio of mean alpha_mse to mean alpha_cos over the validation images."""
    model, info = models.load_run(whole)
    assert not model.training
    images = [data / name for name in info["data"]["validation"]]
    feed = Feed(images, model.config.resize, model.config.crop, keep=True, report=Reporter())
    with torch.no_grad():
        _, mses, coses = model.compare(feed.images)
    measured = [(m.mean() / c.mean()).item() for m, c in zip(mses, coses, strict=True)]
    assert model.alpha_scale.tolist() == pytest.approx(measured, rel=1e-4)
    assert info["alpha_scale"] == model.alpha_scale.tolist()
    total = 0.5 * sum(m.mean().item() for m in mses)
    assert info["best"]["validation_loss"] == pytest.approx(total, rel=1e-4)


def test_a_fixed_lambda_is_kept(data, tmp_path):
    config = {**CONFIG, "alpha_scale": [1.5, 2.5, 3.5]}
    train(settings(data, config=config, epochs=1), tmp_path / "run")
    assert models.load_run(tmp_path / "run")[0].alpha_scale.tolist() == [1.5, 2.5, 3.5]


# After 2 epochs, in the middle of the third, at its last step, in its validation.
@pytest.mark.parametrize("images", [20, 24, 28, 29])
def test_ctrl_c_and_resume_equal_one_run(data, whole, tmp_path, images):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, precision="f32"), out, report=StopAt(images))
    assert json.loads((out / "config.json").read_text())["finished"] is False
    with pytest.raises(AdfastError, match="--resume"):
        train(settings(data, precision="f32"), out)
    train(settings(data, precision="f32"), out, resume=True)
    assert_same_run(out, whole)


def test_resuming_a_finished_run_changes_nothing(data, whole, tmp_path):
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    train(settings(data, precision="f32"), whole, resume=True)
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_caches_do_not_change_the_training(data, tmp_path, precision):
    for cache in ("features", "images", "off"):
        train(settings(data, precision=precision, cache=cache, epochs=2), tmp_path / cache)
    for cache in ("images", "off"):
        assert_losses_agree(
            tmp_path / cache, tmp_path / "features", 1e-3 if precision == "f32" else 0.05
        )


def command(*arguments):
    code = (
        "import sys, argparse; from adfast.commands import train as c; "
        "p = argparse.ArgumentParser(); c.add_arguments(p); sys.exit(c.run(p.parse_args()))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "python"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=env,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(path, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.is_file():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.02)


def test_kill_9_and_ctrl_c_from_the_command_line(data, tmp_path):
    out = tmp_path / "run"
    arguments = ["gtrans", "--data", data, "--out", out, "--backbone", "resnet18", "--weights"]
    arguments += ["none", "--size", "32", "--epochs", "500", "--batch", "3"]
    process = command(*arguments)
    wait_for(out / "last.safetensors", process)
    process.kill()
    process.communicate()
    kept = checkpoint.read_history(out / "history.jsonl")
    assert kept
    model, info = models.load_run(out)  # whole files only, at any moment
    assert info["config"]["resize"] == [37, 37] and not info["finished"]

    leftover = out / ".last.safetensors.abc.safetensors"
    leftover.write_bytes(b"half")

    process = command("--out", out, "--resume")
    position = len(kept)
    deadline = time.monotonic() + 120
    while len(checkpoint.read_history(out / "history.jsonl")) <= position + 1:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and not leftover.exists()
    assert f"--out {out} --resume" in errors and "Traceback" not in errors
    history = checkpoint.read_history(out / "history.jsonl")
    assert history[: len(kept)] == kept
    assert [record["epoch"] for record in history] == list(range(1, len(history) + 1))


def test_a_resume_of_other_settings_is_refused(data, whole):
    other = settings(data, config={**CONFIG, "fusion": "P1"}, precision="f32")
    with pytest.raises(ModelError, match="its config is not that of this training"):
        train(other, whole, resume=True)


def test_damaged_checkpoints_are_named(data, whole, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    for path in whole.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    for name in ("last.safetensors", "best.safetensors"):
        (out / name).write_bytes((out / name).read_bytes()[:1000])
    with pytest.raises(ModelError, match="last.safetensors"):
        train(settings(data, precision="f32", epochs=5), out, resume=True)
    with pytest.raises(ModelError, match="best.safetensors"):
        models.load_run(out)
    (out / "best.safetensors").unlink()
    with pytest.raises(ModelError, match="has not ended an epoch"):
        models.load_run(out)
    with pytest.raises(ModelError, match="not the folder of a training run"):
        models.load_run(tmp_path)


def test_unreadable_images_are_all_named_before_training(tmp_path):
    root = make_images(tmp_path / "data", 6)
    for name in ("001.png", "004.png"):
        path = root / "train" / "good" / name
        path.write_bytes(path.read_bytes()[:100])
    for cache in ("images", "off"):
        with pytest.raises(DataError, match="2 of 6 training images.*") as error:
            train(settings(root, cache=cache), tmp_path / cache)
        assert "001.png" in str(error.value) and "004.png" in str(error.value)
        assert not list((tmp_path / cache).iterdir())


def test_missing_images_leave_no_run_folder(tmp_path):
    with pytest.raises(DataError, match="MVTec layout"):
        train(settings(tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unwritable_out_is_found_early(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AdfastError, match="cannot write the run folder"):
        train(settings(data), tmp_path / "file" / "run")


def test_wrong_weights_are_found_before_images_are_read(tmp_path):
    root = make_images(tmp_path / "data", 2)
    (root / "train" / "good" / "000.png").write_bytes(b"")
    (tmp_path / "w.npz").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="w.npz"):
        train(settings(root, weights=str(tmp_path / "w.npz")), tmp_path / "run")


def test_a_diverging_training_stops(data, tmp_path):
    with pytest.raises(ModelError, match="lower --lr"):
        train(settings(data, lr=math.inf, epochs=2), tmp_path / "run")


@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"batch": 0}, {"lr": 0}, {"fraction": 1}, {"precision": "f16"}, {"cache": "x"}],
)
def test_settings_that_cannot_work(data, change):
    with pytest.raises(AdfastError, match=next(iter(change))):
        settings(data, **change)


def test_the_commands_import_without_torch():
    code = (
        "import argparse, sys; from adfast.commands import train, export; "
        "p = argparse.ArgumentParser(); train.add_arguments(p); p.format_help(); "
        "q = argparse.ArgumentParser(); export.add_arguments(q); "
        "assert not {'torch', 'onnx', 'timm', 'PIL'} & sys.modules.keys()"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=60)


@pytest.mark.parametrize(
    ("abilities", "expected"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, "bf16"),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, "bf16"),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, "f32"),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False}, "f32"),
        ({}, "f32"),
    ],
)
def test_auto_is_bf16_where_the_processor_is_faster_in_it(abilities, expected, monkeypatch):
    from adfast.training.run import _precision

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities, raising=False)
    assert _precision("auto", "cpu") == expected
    assert _precision("bf16", "cpu") == "bf16" and _precision("f32", "cpu") == "f32"
