"""A model's whole life on the command line: train, export, build, and all a plan is for."""

import importlib.util
import json

import pytest

from adfast import cli
from adfast.data.scenes import DEFECTS, generate


@pytest.fixture(scope="module")
def life(tmp_path_factory):
    """Train a tiny model on a few generated images; one epoch, which is enough to run."""
    for package in ("torch", "timm", "onnx", "onnxruntime", "onnxscript", "scipy", "PIL"):
        if importlib.util.find_spec(package) is None:  # not imported: training chooses the order
            pytest.skip(f"{package} is not installed")
    root = tmp_path_factory.mktemp("life")
    generate(root / "data", train=15, good=3, per_defect=1, size=64)
    words = ["train", "gtrans", "--data", root / "data", "--backbone", "resnet18"]
    words += ["--weights", "none", "--epochs", "1", "--size", "64", "--batch", "4"]
    assert cli.main([*map(str, words), "--out", str(root / "run")]) == 0
    return root


@pytest.fixture(scope="module")
def plan(life):
    """Build the plan."""
    assert cli.main(["build", str(life / "run"), "-o", str(life / "flange.plan")]) == 0
    return life / "flange.plan"


def test_export_then_build_from_onnx(life, capsys):
    model = life / "model.onnx"
    assert cli.main(["export", str(life / "run"), "-o", str(model)]) == 0
    words = ["build", model, "-o", life / "onnx.plan", "--precision", "f32"]
    assert cli.main([*map(str, words), "--calibrate", str(life / "data/train/good")]) == 0
    capsys.readouterr()
    assert cli.main(["info", str(life / "onnx.plan"), "--json"]) == 0
    contents = json.loads(capsys.readouterr().out)
    assert contents["calibration"]["images"] == 15
    assert cli.main(["selftest", str(life / "onnx.plan")]) == 0


def test_info(plan, capsys):
    assert cli.main(["info", str(plan)]) == 0
    text = capsys.readouterr().out
    assert "gtrans" in text and "threshold" in text
    assert cli.main(["info", str(plan), "--json"]) == 0
    contents = json.loads(capsys.readouterr().out)
    assert contents["fields"]["frame.crop"] == [64, 64]
    assert len(contents["golden"]) == 3


@pytest.mark.parametrize("precision", ["auto", "f32"])
def test_selftest(plan, precision, capsys):
    assert cli.main(["selftest", str(plan), "--precision", precision]) == 0
    assert capsys.readouterr().out.count(" ok") == 3


def test_predict(plan, life, capsys):
    broken = life / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    images = [str(life / "data/test"), str(broken)]
    assert cli.main(["predict", str(plan), *images, "-o", str(life / "out"), "--json"]) == 3
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert len(document["results"]) == 3 + len(DEFECTS)
    assert "broken.png" in captured.err
    for record in document["results"]:
        assert record["anomalous"] is (record["score"] > record["threshold"])
        assert record["inspected"] == [4, 4, 56, 56]  # 64 of 73 rows and columns of 64 pixels
    assert (life / "out/data/test/stain/000_overlay.png").exists()


def test_eval(plan, life, capsys):
    words = ["eval", plan, "--data", life / "data", "--out", life / "report", "--json"]
    assert cli.main([*map(str, words)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == {"good": 3, "defective": len(DEFECTS)}
    assert 0 <= result["metrics"]["image_auroc"] <= 1
    assert 0 <= result["metrics"]["aupro"] <= 1
    assert (life / "report/report.html").stat().st_size > 10_000


def test_a_run_answers_as_its_plan_does(plan, life):
    import numpy as np

    import adfast
    from adfast.run_engine import RunEngine

    run, engine = RunEngine(life / "run"), adfast.load(plan, precision="f32")
    rng = np.random.default_rng(0)
    for shape in ((64, 64, 3), (50, 131), (1, 1), (300, 7, 3)):
        frame = rng.integers(0, 256, shape, dtype=np.uint8)
        got, expected = run.predict(frame), engine.predict(frame)
        assert got.inspected == expected.inspected
        peak = float(expected.map.max())
        np.testing.assert_allclose(got.map, expected.map, rtol=0, atol=1e-4 * peak)
        assert got.score == pytest.approx(expected.score, abs=1e-4 * peak)
        assert got.is_anomalous is None and got.timings["total"] > 0
    with pytest.raises(adfast.FrameError, match="float64"):
        run.predict(np.zeros((3, 3)))


def test_eval_of_a_run(plan, life, capsys):
    found = {}
    for model in (life / "run", plan):
        words = ["eval", model, "--data", life / "data", "--json", "--resamples", "20"]
        assert cli.main([*map(str, words)]) == 0
        found[model] = json.loads(capsys.readouterr().out)
    run, built = found.values()
    assert run["engine"]["runtime"].startswith("PyTorch") and run["verdicts"] is None
    assert built["engine"]["runtime"] == "adfast engine" and built["verdicts"] is not None
    assert run["metrics"]["pixel_auroc"] == pytest.approx(built["metrics"]["pixel_auroc"], abs=0.02)
    words = ["eval", life / "run", "--data", life / "data", "--out", life / "run_report"]
    assert cli.main([*map(str, words)]) == 0
    assert "no threshold" in capsys.readouterr().out
    assert (life / "run_report/report.html").is_file()
    assert cli.main([*map(str, words), "--precision", "bf16"]) == 1
    assert "in f32" in capsys.readouterr().err
    assert cli.main(["eval", str(life / "data"), "--data", str(life / "data")]) == 1
    assert "not the folder of a training run" in capsys.readouterr().err


def test_bench(plan, life, capsys):
    image = str(life / "data/test/good/000.png")
    words = ["bench", str(plan), "--image", image, "--seconds", "0.2", "--batch", "2"]
    assert cli.main([*words, "--threads", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["engine"]["threads"] == 1 and result["stages"]["network"]["p50"] > 0
    assert cli.main([*words, "--threads", "1", "--profile", "--json"]) == 0
    profile = json.loads(capsys.readouterr().out)["profile"]
    assert profile["frames"] >= 5 and {s["op"] for s in profile["steps"]} >= {"frame", "conv2d"}
    assert all(0 < s["share_of_best"] <= 1 and s["bytes"] > 0 for s in profile["steps"])
    assert sum(t["steps"] for t in profile["ops"]) == len(profile["steps"])


def test_demo_page(plan, life):
    import adfast
    from adfast import _core, benchmark, demo
    from adfast.commands.eval import evaluate_plan

    engine = adfast.load(plan, precision="f32")
    frame = benchmark.sample_frame(64, 64)
    page = demo.write_page(
        life / "demo",
        engine,
        _core.read_plan(str(plan)),
        life / "data",
        evaluate_plan(engine, life / "data"),
        benchmark.measure(engine, frame, seconds=0.1, warmup=0),
        engine.self_test(),
        "none",
        ["adfast build 'a b' -o c.plan"],
    )
    text = page.read_text()
    for word in ("random weights", "image AUROC", "onnxruntime", "missing_hole", "&#x27;a b&#x27;"):
        assert word in text
    assert len(list((life / "demo/pictures").glob("*.png"))) == 2 + len(DEFECTS)


def test_demo_refuses_before_it_draws(tmp_path, capsys):
    out = str(tmp_path / "demo")
    assert cli.main(["demo", "--out", out, "--weights", str(tmp_path / "none.npz")]) == 1
    assert "no such file" in capsys.readouterr().err
    assert cli.main(["demo", "--out", out, "--images", "3"]) == 1
    assert "at least 10" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_demo_goes_on_where_it_was_interrupted(tmp_path, monkeypatch, capsys):
    typed = []

    def interrupted(words):
        typed.append(words)
        (tmp_path / "demo/run").mkdir(exist_ok=True)
        (tmp_path / "demo/run/last.safetensors").touch()
        return 130

    run = cli.main
    monkeypatch.setattr(cli, "main", interrupted)
    for _ in range(2):
        assert run(["demo", "--out", str(tmp_path / "demo"), "--images", "10"]) == 130
    assert [words[:2] for words in typed] == [["train", "gtrans"]] * 2
    assert typed[1] == [*typed[0], "--resume"]


@pytest.mark.parametrize("change", ["truncate", "flip"])
@pytest.mark.parametrize("command", ["info", "selftest", "predict", "bench"])
def test_a_damaged_plan_is_one_message(plan, life, command, change, capsys):
    data = bytearray(plan.read_bytes())
    if change == "truncate":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2] ^= 1
    bad = life / f"{change}.plan"
    bad.write_bytes(data)
    words = [command, str(bad)] + ([str(life / "data/test/good")] if command == "predict" else [])
    assert cli.main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"adfast {command}: ") and "Traceback" not in error


def test_a_missing_plan_is_one_message(capsys):
    assert cli.main(["selftest", "nowhere.plan"]) == 1
    assert "nowhere.plan" in capsys.readouterr().err
