"""The commands on a fake engine: outputs, messages, exit codes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from adfast import cli
from adfast.commands import selftest
from adfast.images import read_image, write_png

sys.path.insert(0, str(Path(__file__).parent))
from fake import FakeEngine  # noqa: E402


@pytest.fixture
def engine(monkeypatch):
    """Put the fake engine in the place of a loaded plan."""
    fake = FakeEngine()
    for command in ("predict", "eval", "bench", "selftest"):
        module = __import__(f"adfast.commands.{command}", fromlist=["load_engine"])
        monkeypatch.setattr(module, "load_engine", lambda args: fake)
    return fake


def grey(value, shape=(16, 20)):
    """A flat frame with one bright pixel in the middle."""
    frame = np.full(shape, 130, np.uint8)
    frame[shape[0] // 2, shape[1] // 2] = value
    return frame


@pytest.fixture
def data(tmp_path):
    """Write a small labelled set: one miss, one false alarm, one empty mask."""
    root = tmp_path / "data"
    frames = {
        "test/good/0.png": grey(140),
        "test/good/1.png": grey(210),
        "test/hole/0.png": grey(250),
        "test/hole/1.png": grey(135),
        "test/hole/2.png": grey(240),
    }
    for name, frame in frames.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(root / name, frame)
        if "hole" in name:
            mask = root / "ground_truth/hole" / f"{Path(name).stem}_mask.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            marked = np.zeros(frame.shape, np.uint8)
            if "2" not in name:
                marked[8, 10] = 255
            marked[0, 0] = 255  # outside the inspected rectangle
            write_png(mask, marked)
    return root


def test_predict_writes_lines_overlays_maps_and_json(tmp_path, engine, data, capsys):
    assert (
        cli.main(
            ["predict", "p.plan", str(data / "test"), "-o", str(tmp_path / "out"), "--map", "both"]
        )
        == 0
    )
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 6 and out[-1].startswith("5 images, 3 anomalous; outputs in")
    assert len({line.index("score") for line in out[:5]}) == 1
    assert "ANOMALOUS" in out[1] and "threshold 0.5" in out[1]
    base = tmp_path / "out" / "hole" / "0"
    record = json.loads(Path(f"{base}.json").read_text())
    assert record["anomalous"] is True and record["inspected"] == [5, 4, 10, 8]
    assert read_image(f"{base}_overlay.png").shape == (16 + 13, 20, 3)
    exact = np.load(f"{base}_map.npy")
    pil = pytest.importorskip("PIL.Image")
    stored = np.asarray(pil.open(f"{base}_map.png")).astype(np.float64)
    png = record["map"]["png"]
    np.testing.assert_allclose(png["offset"] + png["scale"] * stored, exact, atol=png["scale"])
    assert exact.max() == pytest.approx(record["score"])


def test_predict_keeps_images_of_one_name_apart(tmp_path, engine):
    for name in ("a/x.png", "b/x.png", "a/y.png", "a/y.pgm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_png(tmp_path / name, grey(200))
    out = tmp_path / "out"
    arguments = [str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "a/x.png")]
    assert cli.main(["predict", "p.plan", *arguments, "-o", str(out)]) == 0
    found = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.json"))
    assert found == ["a/x.json", "a/y_pgm.json", "a/y_png.json", "b/x.json"]


def test_predict_skips_names_and_counts_unreadable_images(tmp_path, engine, capsys):
    for name, content in (("a.png", None), ("b.png", b"\x89PNG\r\n\x1a\nnot"), ("c.png", None)):
        if content is None:
            write_png(tmp_path / name, grey(200))
        else:
            (tmp_path / name).write_bytes(content)
    assert cli.main(["predict", "p.plan", str(tmp_path)]) == 3
    captured = capsys.readouterr()
    assert "2 images, 2 anomalous, 1 unreadable" in captured.out
    assert "b.png" in captured.err and "1 of 3 images could not be read" in captured.err
    assert cli.main(["predict", "p.plan", str(tmp_path), "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert len(document["results"]) == 2
    assert document["unreadable"][0]["image"].endswith("b.png")


def test_predict_without_threshold(tmp_path, engine, capsys):
    engine.threshold = None
    write_png(tmp_path / "a.png", grey(200, (20, 30)))
    assert cli.main(["predict", "p.plan", str(tmp_path / "a.png"), "-o", str(tmp_path / "o")]) == 0
    assert "uncalibrated" in capsys.readouterr().out
    assert json.loads((tmp_path / "o/a.json").read_text())["anomalous"] is None


def test_unwritable_output_is_one_message_and_nothing_half_written(tmp_path, engine, capsys):
    write_png(tmp_path / "a.png", grey(200))
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "sub"):
        assert cli.main(["predict", "p.plan", str(tmp_path / "a.png"), "-o", str(out)]) == 1
        error = capsys.readouterr().err
        assert (
            error.startswith("adfast predict: cannot create the folder")
            and "Traceback" not in error
        )
    assert engine.calls == 0


def test_eval_counts_and_reports(tmp_path, engine, data, capsys):
    pytest.importorskip("scipy")
    out = tmp_path / "out"
    result_file = tmp_path / "r.json"
    assert (
        cli.main(
            ["eval", "p.plan", "--data", str(data), "--out", str(out), "--json", str(result_file)]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "1 false alarms in 2 good images" in text and "1 misses in 3 defective ones" in text
    assert "1 defective images with an empty mask" in text
    result = json.loads(result_file.read_text())
    assert result["metrics"]["image_auroc"] == pytest.approx(4 / 6)
    assert result["pixels"]["images"] == 4 and result["pixels"]["regions"] == 2
    assert result["pixels"]["normal_pixels"] == 4 * 8 * 10 - 2
    assert result["pixels"]["empty_masks"] == ["test/hole/2.png"]
    assert result == json.loads((out / "results.json").read_text())
    page = (out / "report.html").read_text()
    assert "test/hole/1.png" in page and "(missed)" in page and "(false alarm)" in page
    assert "http" not in page.replace("http-equiv", "")


def test_eval_measures_every_class_and_gives_intervals(engine, data, capsys):
    pytest.importorskip("scipy")
    for number, value in enumerate((180, 255)):
        (data / "test/dent").mkdir(exist_ok=True)
        (data / "ground_truth/dent").mkdir(exist_ok=True)
        write_png(data / f"test/dent/{number}.png", grey(value))
        write_png(data / f"ground_truth/dent/{number}_mask.png", (grey(255) > 200) * np.uint8(9))
    words = ["eval", "p.plan", "--data", str(data), "--resamples", "50"]
    assert cli.main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    classes = {entry["label"]: entry for entry in result["classes"]}
    assert list(classes) == ["good", "dent", "hole"]
    assert classes["good"]["image_auroc"] is None and classes["good"]["intervals"] == {}
    assert classes["dent"]["image_auroc"] == 0.75 and classes["dent"]["regions"] == 2
    # Mid-grey is 128, the frames are 130: only the one defect pixel stands out.
    assert classes["dent"]["pixel_auroc"] > 0.99 > classes["hole"]["pixel_auroc"] - 0.01
    for found in (result, classes["dent"], classes["hole"]):
        values = found.get("metrics", found)
        assert set(found["intervals"]) == {
            *("image_auroc", "image_ap", "f1_max", "pixel_auroc", "aupro")
        }
        for name, (low, high) in found["intervals"].items():
            # F1 is computed in two ways, which may differ in the last bit.
            assert 0 <= low <= values[name] + 1e-12 and values[name] - 1e-12 <= high <= 1, name
    assert result["bootstrap"]["resamples"] == 50
    assert result["bootstrap"]["pixel_error"]["aupro"] < 0.01
    for curve in result["curves"].values():
        assert curve["points"][0] == [0, 0] and curve["points"][-1] == [1, 1]
    alarms = result["verdicts"]["false_alarm_rate"], 1 - result["verdicts"]["miss_rate"]
    assert result["curves"]["roc"]["operating"] == list(alarms)
    for rate in ("false_alarm", "miss"):
        low, high = result["verdicts"][f"{rate}_interval"]
        assert 0 <= low <= result["verdicts"][f"{rate}_rate"] <= high <= 1
    assert cli.main(words) == 0
    assert " to " in capsys.readouterr().out
    assert cli.main([*words[:-1], "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["intervals"] == {}
    assert cli.main([*words[:-1], "-1"]) == 1
    assert "[bootstrap]" in capsys.readouterr().err


def test_eval_of_a_list(tmp_path, engine, data, capsys):
    pytest.importorskip("scipy")
    names = tmp_path / "list.txt"
    names.write_text("# some\ntest/good/0.png\n\ntest/hole/0.png\n")
    assert cli.main(["eval", "p.plan", "--data", str(data), "--list", str(names), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == {"good": 1, "defective": 1}
    names.write_text("test/good/0.png\ntest/good/nothing.png\n")
    assert cli.main(["eval", "p.plan", "--data", str(data), "--list", str(names)]) == 1
    assert "nothing.png" in capsys.readouterr().err
    names.write_text("test/good/0.png\n")
    assert cli.main(["eval", "p.plan", "--data", str(data), "--list", str(names)]) == 1
    assert "only good" in capsys.readouterr().err


def test_eval_lists_all_problems_before_the_first_prediction(engine, data, capsys):
    pytest.importorskip("scipy")

    def refused():
        assert cli.main(["eval", "p.plan", "--data", str(data)]) == 1
        assert engine.calls == 0
        return capsys.readouterr().err

    mask = data / "ground_truth/hole/1_mask.png"
    write_png(mask, np.zeros((3, 4), np.uint8))
    assert "the mask is 4 x 3; its image is 20 x 16" in refused()
    (data / "ground_truth/hole/0_mask.png").unlink()
    (data / "ground_truth/hole/2_mask.png").write_bytes(b"broken")
    text = refused()
    assert ": 3 problems\n" in text and "take the folder ground_truth away" in text
    assert "hole/0.png has no mask; expected" in text and "hole/0_mask.png" in text
    assert "the mask is 4 x 3" in text and "2_mask.png: not a readable image" in text
    for number in range(20, 35):
        (data / f"test/hole/{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    text = refused()
    assert ": 18 problems" in text and "and 8 more" in text and text.count("\n") == 12
    assert cli.main(["eval", "p.plan", "--data", str(data / "nowhere")]) == 1
    assert "MVTec layout" in capsys.readouterr().err


def test_eval_without_masks(engine, data, capsys):
    pytest.importorskip("scipy")
    (data / "ground_truth").rename(data / "elsewhere")
    assert cli.main(["eval", "p.plan", "--data", str(data)]) == 0
    said = capsys.readouterr()
    assert "there are no masks" in said.out and "image metrics only" in said.err
    (data / "test/hole/1.png").write_bytes(b"broken")
    assert cli.main(["eval", "p.plan", "--data", str(data)]) == 1
    assert "1.png" in capsys.readouterr().err


def test_bench_reports_percentiles_and_protocol(engine, capsys):
    arguments = ["bench", "p.plan", "--seconds", "0.05", "--batch", "3"]
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert "p99.9" in text and "protocol: one caller, predict_batch of 3" in text
    assert cli.main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["stages"]) == {"call", "frame", "network", "map", "total"}
    call = result["stages"]["call"]
    assert call["min"] <= call["mean"] <= call["max"]
    assert cli.main(["bench", "p.plan", "--batch", "0"]) == 1
    assert "must be positive" in capsys.readouterr().err


def test_bench_profiles_steps_and_writes_a_trace(engine, tmp_path, capsys):
    trace = tmp_path / "trace.json"
    arguments = ["bench", "p.plan", "--seconds", "0.05", "--profile", "1", "--trace", str(trace)]
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert "fast" in text and "1 more steps" in text and "200 GFLOP/s and 4 GB/s" in text
    events = json.loads(trace.read_text())["traceEvents"]
    assert [e["args"]["name"] for e in events if e["ph"] == "M"] == ["lane 0", "lane 1"]
    assert [(e["name"], e["tid"], e["dur"]) for e in events if e["ph"] == "X"] == [
        ("stem", 0, 1000),
        ("sum", 1, 4000),
    ]
    assert cli.main([*arguments, "--json"]) == 0
    profile = json.loads(capsys.readouterr().out)["profile"]
    assert [step["name"] for step in profile["steps"]] == ["sum", "stem"]
    assert [step["share_of_best"] for step in profile["steps"]] == pytest.approx([0.25, 1.0])
    assert [(total["op"], total["gbs"]) for total in profile["ops"]] == [("add", 1), ("conv2d", 4)]
    assert cli.main(["bench", "p.plan", "--profile", "-1"]) == 1
    assert "--profile is -1" in capsys.readouterr().err


def test_percentiles_are_observed_values_and_absent_when_unseen():
    from adfast.benchmark import summarize

    summary = summarize(np.arange(1.0, 101.0))
    assert (summary["p50"], summary["p99"], summary["p99.9"], summary["max"]) == (
        51,
        100,
        None,
        100,
    )


def test_selftest_exit_code(engine, monkeypatch, capsys):
    assert cli.main(["selftest", "p.plan"]) == 0
    assert capsys.readouterr().out.count(" ok") == 3
    report = engine.self_test() | {"passed": False}
    report["frames"] = [report["frames"][0] | {"map_error": 0.3}]
    monkeypatch.setattr(engine, "self_test", lambda: report)
    assert cli.main(["selftest", "p.plan"]) == 1
    assert "TOO FAR" in capsys.readouterr().out


def test_help_and_version(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, _, example in cli.COMMANDS:
        assert name in text
        assert example.startswith(f"adfast {name} ")
    assert "the life of a model" in text and "exit codes" in text
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("adfast 0.")


@pytest.mark.parametrize("command", [name for name, _, _ in cli.COMMANDS])
def test_every_command_explains_itself(command, capsys):
    assert cli.main([command, "--help"]) == 0
    assert "example:" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["fly"], ["predict"], ["bench", "p", "--batch", "x"]])
def test_wrong_usage_exits_2(argv, capsys):
    assert cli.main(argv) == 2
    assert "usage: adfast" in capsys.readouterr().err


def test_errors_become_exit_codes(engine, monkeypatch, capsys):
    def fail(error):
        def run(args):
            raise error

        monkeypatch.setattr(selftest, "run", run)
        return cli.main(["selftest", "p.plan"]), capsys.readouterr().err

    code, text = fail(ModuleNotFoundError("No module named 'onnx'", name="onnx"))
    assert code == 1 and 'pip install "adfast[compile]"' in text
    assert fail(KeyboardInterrupt())[0] == 130
    code, text = fail(OSError(28, "No space left on device", "big.bin"))
    assert code == 1 and text == "adfast selftest: big.bin: No space left on device\n"
    with pytest.raises(ModuleNotFoundError):
        fail(ModuleNotFoundError("No module named 'adfast.nothing'", name="adfast.nothing"))


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_reader_that_leaves_is_no_traceback(option):
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-m", "adfast.cli", option],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert process.stderr == ""


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; from adfast.cli import main; main(['--help'])\n"
        "bad = {'torch', 'onnx', 'scipy', 'sklearn', 'PIL', 'timm', 'rich'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        times.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    # 0.3 s on an idle machine; the test only guards against an import of seconds.
    assert min(times) < 1.5
