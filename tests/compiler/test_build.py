"""adfast build and adfast info, from an ONNX file to a plan that the engine runs."""

import importlib.util
import json
import re
import sys

import numpy as np
import onnx
import pytest
from small_models import floats, model, run_onnx, student_teacher

import adfast
import adfast.images
from adfast import cli, parity, precision
from adfast.build import build, generated_frames
from adfast.compiler import reference
from adfast.errors import AdfastError, ArgumentError, CompileError, DataError
from adfast.images import write_png

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "peers.onnx"
    onnx.save(student_teacher(side=24), path)
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    for number, frame in enumerate(generated_frames(12, 30, 26)):
        write_png(folder / f"{number:02}.png", frame if number else frame[..., 0])
    write_png(folder / "large.png", generated_frames(1, 700, 40)[0])
    return folder


@pytest.fixture(scope="module")
def plan(onnx_file, good, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "peers.plan"
    said = []
    result = build(
        onnx_file,
        path,
        precision="f32",
        calibrate=good,
        max_fpr=0.1,
        created="2000-01-01T00:00:00+00:00",
        log=said.append,
    )
    return path, result, said


def test_the_plan_answers_as_onnx_runtime_does(plan, onnx_file):
    engine = adfast.load(plan[0])
    frame = generated_frames(1, 24, 24)[0]
    image = reference.frame(frame, [24, 24], [24, 24], 1, [1 / 255] * 3, [0, 0, 0])
    expected = run_onnx(onnx.load(onnx_file), {"image": image.astype(np.float32)})["map"][0, 0]
    result = engine.predict(frame)
    assert np.abs(result.network_map - expected).max() <= 1e-5 * expected.max()
    assert engine.self_test()["passed"]


def test_the_threshold_keeps_its_rate(plan, good):
    path, result, said = plan
    engine = adfast.load(path)
    scores = np.array([engine.predict(file).score for file in sorted(good.iterdir())])
    value = result["calibration"]["threshold"]
    assert value in scores and (scores > value).sum() == 1
    assert (scores > sorted(scores)[-3]).mean() > 0.1
    assert result["calibration"]["images"] == 13
    assert result["calibration"]["expected_fpr"] == pytest.approx(2 / 14)
    assert engine.info["threshold"] == value
    assert not [line for line in said if line.startswith("warning")]


def test_the_parity_report(plan):
    report = plan[1]["parity"]
    assert report["reference"] == "onnxruntime" and report["images"] == 13
    assert report["engine_f32"]["map_max_rel"] < 1e-5
    assert report["precision"] == {
        "chosen": "f32",
        "reason": report["precision"]["reason"],
    }


def test_golden_frames_are_small_and_span_the_scores(plan):
    from adfast import _core

    read = _core.read_plan(str(plan[0]))
    assert len(read["golden"]) == 3
    assert max(max(each["frame"].shape) for each in read["golden"]) <= 512
    scores = [each["score"] for each in read["golden"]]
    assert scores == sorted(scores)
    assert read["golden_info"]["reference"] == "onnxruntime"


def test_the_same_build_gives_the_same_bytes(plan, onnx_file, good, tmp_path):
    path = tmp_path / "again.plan"
    arguments = {"precision": "f32", "calibrate": good, "max_fpr": 0.1}
    build(onnx_file, path, created="2000-01-01T00:00:00+00:00", **arguments)
    assert path.read_bytes() == plan[0].read_bytes()


def test_without_images_the_plan_is_not_calibrated_and_says_so(onnx_file, tmp_path):
    said = []
    result = build(onnx_file, tmp_path / "a.plan", precision="f32", log=said.append)
    assert "threshold" not in result["calibration"] and result["parity"]["generated"]
    assert [line for line in said if line.startswith("not calibrated")]
    engine = adfast.load(tmp_path / "a.plan")
    assert engine.predict(np.zeros((9, 9), np.uint8)).is_anomalous is None
    assert engine.self_test()["passed"]


def test_the_default_rate_is_one_that_the_images_can_show(onnx_file, good, tmp_path):
    said = []
    result = build(onnx_file, tmp_path / "a.plan", precision="f32", calibrate=good, log=said.append)
    assert said[0].startswith("false-positive rate 0.07692: the smallest that 13 good images")
    table = result["calibration"]
    assert table["max_fpr"] == 1 / 13 and table["expected_fpr"] == pytest.approx(2 / 14)
    assert table["fpr.low"] < 2 / 14 < table["fpr.high"] and "threshold.high" not in table
    assert table["rule"] == "false-positive rate on good images"
    assert adfast.load(tmp_path / "a.plan").info["calibration"] == table


def test_a_rate_that_the_images_cannot_show_is_refused_before_the_work(onnx_file, good, tmp_path):
    said = []
    with pytest.raises(DataError, match="13 good images cannot show .* 0.01: that takes 100"):
        build(onnx_file, tmp_path / "a.plan", calibrate=good, max_fpr=0.01, log=said.append)
    assert said == [] and not (tmp_path / "a.plan").exists()


@pytest.fixture(scope="module")
def labelled(good, tmp_path_factory):
    """The good images again, and noise as defective ones."""
    root = tmp_path_factory.mktemp("labelled")
    for label in ("good", "stain"):
        (root / "test" / label).mkdir(parents=True)
        for file in sorted(good.iterdir())[: 13 if label == "good" else 5]:
            frame = adfast.images.read_image(file)
            if label == "stain":
                frame = np.random.default_rng(1).integers(0, 256, frame.shape, dtype=np.uint8)
            write_png(root / "test" / label / file.name, frame)
    return root


@pytest.mark.parametrize("inner", ["", "test"])
def test_a_threshold_from_labelled_images(onnx_file, labelled, tmp_path, inner):
    said = []
    out = tmp_path / "a.plan"
    arguments = {"precision": "f32", "threshold_from": labelled / inner, "log": said.append}
    table = build(onnx_file, out, **arguments)["calibration"]
    engine = adfast.load(out)
    called = {
        label: [engine.predict(p).is_anomalous for p in (labelled / "test" / label).iterdir()]
        for label in ("good", "stain")
    }
    assert table["rule"] == "largest F1 on labelled images" and "max_fpr" not in table
    assert (table["labelled.good"], table["labelled.defective"]) == (13, 5)
    assert table["labelled.false_alarms"] == sum(called["good"])
    assert table["labelled.misses"] == 5 - sum(called["stain"])
    hits = sum(called["stain"])
    assert table["labelled.f1"] == pytest.approx(2 * hits / (hits + 5 + sum(called["good"])))
    assert table["labelled.f1"] > 0.5 and table["images"] == 13
    assert table["source"].startswith("good ones of folder")
    assert any("figures on these images are not a test" in line for line in said)


def test_labelled_images_that_score_alike_are_warned_about(onnx_file, good, tmp_path):
    for label in ("good", "stain"):
        (tmp_path / label).mkdir()
        for file in sorted(good.iterdir())[:3]:
            (tmp_path / label / file.name).write_bytes(file.read_bytes())
    said = []
    build(onnx_file, tmp_path / "a.plan", precision="f32", threshold_from=tmp_path, log=said.append)
    (warning,) = [line for line in said if line.startswith("warning")]
    assert "100 % of the labelled good images" in warning and "here 50 %" in warning


def test_labelled_images_with_a_rate(onnx_file, good, labelled, tmp_path):
    arguments = {"precision": "f32", "threshold_from": labelled, "calibrate": good}
    table = build(onnx_file, tmp_path / "a.plan", max_fpr=0.1, **arguments)["calibration"]
    assert table["labelled.false_alarms"] == 1 and table["max_fpr"] == 0.1
    assert table["source"].startswith("folder good") and table["labelled.misses"] <= 5
    with pytest.raises(DataError, match="13 good images cannot show"):
        build(onnx_file, tmp_path / "b.plan", max_fpr=0.01, **arguments)
    with pytest.raises(DataError, match="13 good and 0 defective images; .* needs both"):
        only = tmp_path / "only" / "good"
        only.mkdir(parents=True)
        for file in good.iterdir():
            (only / file.name).write_bytes(file.read_bytes())
        build(onnx_file, tmp_path / "b.plan", threshold_from=tmp_path / "only")


def test_without_onnx_runtime_the_evaluator_of_onnx_is_the_reference(
    onnx_file, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = build(onnx_file, tmp_path / "a.plan", precision="f32")["parity"]
    assert (report["reference"], report["images"]) == ("onnx.reference", 3)
    assert report["engine_f32"]["map_max_rel"] < 1e-5


@pytest.mark.parametrize("off", ["fuse_residual", "fold_batch_norm"])
def test_a_pass_can_be_off(onnx_file, tmp_path, off):
    build(onnx_file, tmp_path / "a.plan", precision="f32", passes_off=[off])
    assert adfast.load(tmp_path / "a.plan").self_test()["passed"]


def test_bf16_is_compared_with_f32(onnx_file, good, tmp_path):
    from adfast import _core

    if not _core.native_bf16():
        pytest.skip("this processor does not compute in bf16")
    result = build(onnx_file, tmp_path / "a.plan", calibrate=good)
    found = result["parity"]["engine_bf16"]
    assert found["score_images"] == 26 and 0 < found["map_max_rel"] < 0.1
    assert set(result["parity"]["milliseconds"]) <= {"f32", "bf16", "int8"}
    assert "ms" in result["parity"]["precision"]["reason"]
    assert result["calibration"]["precision"] == result["precision"]


@pytest.fixture(scope="module")
def int8_plan(onnx_file, good, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "a.plan"
    return path, build(onnx_file, path, precision="int8", calibrate=good)


def test_a_plan_in_int8(int8_plan, onnx_file, capsys):
    path, result = int8_plan
    found = result["parity"]["engine_int8"]
    assert result["precision"] == result["calibration"]["precision"] == "int8"
    assert found["score_spearman"] >= 0.99 and 1e-5 < found["map_max_rel"] < 0.1
    assert (found["steps"], found["steps_in_float"], found["calibration_images"]) == (2, [], 13)
    engine = adfast.load(path)
    assert engine.info["precision"] == "int8" and engine.self_test()["passed"]
    frame = generated_frames(1, 30, 26)[0]
    steps = {step["name"]: step["op"] for step in engine.profile(frame)}
    assert any(name.endswith(".u8") and op == "convert" for name, op in steps.items())
    frames = generated_frames(3, 30, 26)
    for one, other in zip(map(engine.predict, frames), engine.predict_batch(frames), strict=True):
        assert one.score == other.score and np.array_equal(one.map, other.map)
    exact = adfast.load(path, precision="f32")
    assert exact.info["precision"] == "f32" and exact.self_test()["passed"]
    assert exact.predict(frame).score != engine.predict(frame).score
    assert cli.main(["selftest", str(path), "--precision", "int8"]) == 0
    assert cli.main(["info", str(path)]) == 0
    text = capsys.readouterr().out
    for expected in ("passed in int8", "tolerance.int8", "engine_int8.steps_in_float"):
        assert expected in text


def test_int8_without_quantisation_is_refused(plan):
    with pytest.raises(ArgumentError, match="no quantisation; build it with --precision int8"):
        adfast.load(plan[0], precision="int8")


def test_int8_needs_images(onnx_file, tmp_path):
    with pytest.raises(DataError, match="int8 is calibrated on images"):
        build(onnx_file, tmp_path / "a.plan", precision="int8")
    result = build(onnx_file, tmp_path / "a.plan")
    assert "engine_int8" not in result["parity"]


def test_the_gate_refuses_int8(onnx_file, good, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "MIN_SPEARMAN", 1.01)
    with pytest.raises(CompileError, match=r"cannot be built in int8: .* rank correlation"):
        build(onnx_file, tmp_path / "a.plan", precision="int8", calibrate=good)
    assert not (tmp_path / "a.plan").exists()
    result = build(onnx_file, tmp_path / "a.plan", calibrate=good)
    assert result["precision"] == "f32"
    assert "refused: " in result["parity"]["precision"]["reason"]
    assert not result["parity"]["engine_int8"]["passed"]


def test_auto_goes_by_the_clock(onnx_file, good, labelled, tmp_path, monkeypatch):
    for times, expected in [
        ({"f32": 2.0, "int8": 1.0}, "int8"),
        ({"f32": 2.0, "int8": 1.9}, "f32"),  # not worth an error
    ]:
        monkeypatch.setattr(precision, "_times", lambda *_, times=times: times)
        path = tmp_path / f"{expected}.plan"
        result = build(onnx_file, path, calibrate=good, threshold_from=labelled)
        assert result["precision"] == adfast.load(path).info["precision"] == expected
        assert abs(result["parity"]["engine_int8"]["auroc"] - 0.5) <= 0.5
        # What passed the gate may be asked for.
        assert adfast.load(path, precision="int8").self_test()["passed"]


def test_an_engine_that_differs_fails_the_build(onnx_file, tmp_path, monkeypatch):
    path = tmp_path / "a.plan"
    path.write_bytes(b"old")
    real = parity.difference

    def worse(expected, got):
        return {**real(expected, got), "map_max_rel": 0.002}

    monkeypatch.setattr(parity, "difference", worse)
    with pytest.raises(CompileError, match="differs from onnxruntime by 2.00e-03 .* --passes-off"):
        build(onnx_file, path, precision="f32")
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_difference_refuses_what_is_not_finite():
    good = (1.0, np.ones((2, 2), np.float32))
    with pytest.raises(CompileError, match="not finite"):
        parity.difference([good], [(1.0, np.full((2, 2), np.nan, np.float32))])
    with pytest.raises(CompileError, match="has shape"):
        parity.difference([good], [(1.0, np.ones((3, 2), np.float32))])


def test_bad_arguments(onnx_file, good, tmp_path):
    out = tmp_path / "a.plan"
    for error, arguments in [
        (ArgumentError, {"precision": "int4"}),
        (ArgumentError, {"max_fpr": 1.0}),
        (DataError, {"calibrate": tmp_path / "absent"}),
        (CompileError, {"passes_off": ["nothing"]}),
    ]:
        with pytest.raises(error):
            build(onnx_file, out, **arguments)
    for output in (tmp_path / "absent" / "a.plan", tmp_path):
        with pytest.raises(AdfastError, match="cannot write"):
            build(onnx_file, output)
    with pytest.raises(CompileError, match="cannot read"):
        build(tmp_path / "absent.onnx", out)
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("a.png", "b.png"):
        (broken / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"(?s)2 problems.*a\.png.*b\.png"):
        build(onnx_file, out, calibrate=broken)
    assert not out.exists()


def test_a_folder_that_is_no_run(tmp_path):
    pytest.importorskip("safetensors")
    with pytest.raises(AdfastError, match="not the folder of a training run"):
        build(tmp_path, tmp_path / "a.plan")


def test_the_command_line(onnx_file, good, tmp_path, capsys):
    out = tmp_path / "a.plan"
    arguments = ["build", str(onnx_file), "-o", str(out), "--precision", "f32", "--max-fpr", "0.1"]
    code = cli.main([*arguments, "--calibrate", str(good), "--passes-off", "fuse_residual"])
    said = capsys.readouterr()
    assert code == 0 and said.out == "" and f"wrote {out}" in said.err
    assert cli.main(["info", str(out)]) == 0
    text = capsys.readouterr().out
    for expected in (
        "onnx 'peers'",
        "any size, rgb; stretched to 24x24 (bilinear, antialiased), centre 24x24",
        "set by false-positive rate on good images, at most 0.1",
        "new good images above it: expect 14.3 %, 95 % interval",
        "max_fpr",
        "engine_f32.map_max_rel",
        "onnx_sha256",
        "weights      at",
    ):
        assert expected in text
    assert "projector" not in text and "= conv2d" not in text


def test_info_as_json(plan, capsys):
    assert cli.main(["info", str(plan[0]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fields"]["name"] == "peers" and found["calibration"]["max_fpr"] == 0.1
    assert found["golden"][0]["map"] == [24, 24] and "graph" not in found
    assert found["provenance"]["created"] == "2000-01-01T00:00:00+00:00"
    assert cli.main(["info", str(plan[0]), "--json", "--graph"]) == 0
    assert "conv2d" in json.loads(capsys.readouterr().out)["graph"]


def test_an_unknown_op_is_one_message_and_exit_code_1(tmp_path, capsys):
    proto = model(
        "g (float[N,3,8,8] image) => (float[N,1,6,6] map) { c = Conv(image, w) map = Selu(c) }",
        w=floats(1, 3, 3, 3),
    )
    onnx.save(proto, tmp_path / "a.onnx")
    assert cli.main(["build", str(tmp_path / "a.onnx"), "-o", str(tmp_path / "a.plan")]) == 1
    error = capsys.readouterr().err
    assert "Selu: the engine has no such op\n    at map" in error and "Traceback" not in error
    assert not (tmp_path / "a.plan").exists()


def test_a_training_run(tmp_path):
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("timm") is None:
        pytest.skip("needs timm")
    from safetensors.torch import save_file

    from adfast import _core
    from adfast.models.gtrans import GTrans, GTransConfig

    torch.manual_seed(0)
    config = GTransConfig(backbone="resnet18", dim=16, groups=4, resize=(36, 36), crop=(32, 32))
    network = GTrans(config).eval()
    run, data = tmp_path / "run", tmp_path / "data"
    run.mkdir(), data.mkdir()
    save_file(
        {k: v.contiguous() for k, v in network.state_dict().items()}, run / "best.safetensors"
    )
    names = [f"{number}.png" for number in range(4)]
    for name, frame in zip(names, generated_frames(4, 40, 50), strict=True):
        write_png(data / name, frame)
    info = {
        "model": "gtrans",
        "config": config.to_dict(),
        "data": {"root": str(data), "train": [], "validation": names, "sha256": "0"},
    }
    (run / "config.json").write_text(json.dumps(info))
    said = []
    result = build(run, tmp_path / "a.plan", precision="f32", max_fpr=0.25, log=said.append)
    # Normalisation, activations, sums and biases have all gone into their neighbours.
    assert {line.split(":")[0] for line in said if line.startswith("  f")} >= {
        "  fold_input_normalization",
        "  fold_scale_and_bias",
        "  fuse_residual",
        "  fuse_activation",
        "  fuse_projector_score",
    }
    graph = _core.read_plan(str(tmp_path / "a.plan"))["graph"]
    assert graph.count("projector_score_map(") == 3 and graph.count("conv2d(") == 30
    assert not re.search(r"\b(sub|div|relu|add|score_map)\(", graph)
    report = result["parity"]
    assert report["reference"] == "pytorch" and not report["generated"]
    assert max(report["engine_f32"]["map_max_rel"], report["onnxruntime"]["map_max_rel"]) < 1e-4
    assert result["calibration"]["source"] == "held-out validation images"
    assert result["calibration"]["images"] == 4 and len(result["calibration"]["alpha_scale"]) == 3
    engine = adfast.load(tmp_path / "a.plan")
    scores = [engine.predict(data / name).score for name in names]
    assert sum(score > engine.info["threshold"] for score in scores) == 1
    (data / names[1]).unlink()
    with pytest.raises(DataError, match=r"1 of its 4 validation images are missing.*--calibrate"):
        build(run, tmp_path / "b.plan")
