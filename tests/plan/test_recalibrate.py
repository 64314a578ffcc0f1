"""`adfast calibrate`: another threshold from the line's images, and nothing else changes."""

from __future__ import annotations

import json

import numpy as np
import pytest

import adfast
from adfast import _core, cli
from adfast.errors import ArgumentError, DataError
from adfast.images import write_png
from adfast.plan_file import SECTIONS
from adfast.recalibrate import recalibrate

WHEN = "2001-02-03T04:05:06+00:00"


def write_images(folder, count: int, seed: int, spread: int = 20):
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        base = random.integers(0, 255 - spread)
        frame = base + random.integers(0, spread, (18, 20))
        write_png(folder / f"{number:03}.png", frame.astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "good", 25, 1)


def calibrated(plan, path, **arguments):
    said = []
    options = {"precision": "f32", "created": WHEN, "log": said.append} | arguments
    return recalibrate(plan, path, **options), said


def test_only_calibration_and_provenance_change(tiny_plan, good, tmp_path):
    path = tmp_path / "new.plan"
    new, said = calibrated(tiny_plan, path, good=good, max_fpr=0.08)
    before, after = _core.Plan(str(tiny_plan)), _core.Plan(str(path))
    for name in SECTIONS:
        same = before.section(name) == after.section(name)
        assert same is (name not in ("calibration", "provenance")), name
    assert after.contents()["calibration"] == new
    engine = adfast.load(path, precision="f32")
    scores = np.array([engine.predict(file).score for file in sorted(good.iterdir())])
    assert new["threshold"] in scores and (scores > new["threshold"]).sum() == 2
    assert new["images"] == 25 and new["expected_fpr"] == pytest.approx(3 / 26)
    assert new["fpr.low"] < 3 / 26 < new["fpr.high"]
    assert engine.info["threshold"] == new["threshold"] != 0.05
    assert engine.self_test()["passed"]
    assert any(line.startswith("the threshold was 0.05 and is ") for line in said)


def test_only_the_part_counts_that_the_line_inspects(tiny_plan, good, tmp_path, capsys):
    mask = np.zeros((18, 20), np.uint8)
    mask[10:, 12:] = 255
    write_png(tmp_path / "mask.png", mask)
    path = tmp_path / "part.plan"
    arguments = ["--good", str(good), "--max-fpr", "0.08", "--precision", "f32", "-q"]
    arguments += ["--roi", "2,1,17,16", "--ignore", str(tmp_path / "mask.png")]
    assert cli.main(["calibrate", str(tiny_plan), "-o", str(path), *arguments]) == 0, capsys
    engine = adfast.load(path, precision="f32")
    parts = {"roi": (2, 1, 17, 16), "ignore": mask > 0}
    scores = [engine.predict(file, **parts).score for file in sorted(good.iterdir())]
    assert engine.info["threshold"] == sorted(scores)[-3]
    entry = json.loads(_core.read_plan(str(path))["provenance"])["calibrations"][0]
    assert entry["roi"] == [2, 1, 17, 16]
    assert entry["ignored_share"] == pytest.approx(8 * 8 / 360)


def test_the_history_is_kept(tiny_plan, good, tmp_path):
    first, second = tmp_path / "1.plan", tmp_path / "2.plan"
    one, _ = calibrated(tiny_plan, first, good=good, max_fpr=0.08)
    calibrated(first, second, good=good, max_fpr=0.2)
    provenance = json.loads(_core.read_plan(str(second))["provenance"])
    assert provenance["adfast"] == "test"  # of the build
    history = provenance["calibrations"]
    assert [entry["before"]["threshold"] for entry in history] == [0.05, one["threshold"]]
    assert history[1]["before"] == one
    entry = history[0]
    assert entry["images"] == 25 and entry["source"] == "folder good"
    assert entry["created"] == WHEN and entry["adfast"] == adfast.__version__
    assert entry["precision"] == "f32" and entry["device"] == "cpu"


def test_the_same_calibration_gives_the_same_bytes(tiny_plan, good, tmp_path):
    for name in ("a", "b"):
        calibrated(tiny_plan, tmp_path / name, good=good, max_fpr=0.08)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_too_few_images_are_refused_before_the_work(tiny_plan, good, tmp_path):
    said = []
    with pytest.raises(DataError, match="25 good images cannot show .* 0.01: that takes 100"):
        recalibrate(tiny_plan, tmp_path / "a", good=good, max_fpr=0.01, log=said.append)
    assert said == [] and not list(tmp_path.iterdir())


def test_labelled_images(tiny_plan, good, tmp_path):
    write_images(tmp_path / "labelled/good", 10, 2)
    write_images(tmp_path / "labelled/scratch", 10, 3, spread=200)
    table, _ = calibrated(tiny_plan, tmp_path / "a", good=good, labelled=tmp_path / "labelled")
    assert table["rule"] == "largest F1 on labelled images" and table["labelled.good"] == 10
    alone, _ = calibrated(tiny_plan, tmp_path / "b", labelled=tmp_path / "labelled", max_fpr=0.1)
    assert alone["source"] == "good ones of folder labelled" and alone["images"] == 10
    history = json.loads(_core.read_plan(str(tmp_path / "b"))["provenance"])["calibrations"]
    assert history[0]["labelled_images"] == 20


def test_the_models_own_scales_stay(good, tmp_path, make_tiny_graph):
    from adfast.compiler.writer import Golden, plan_fields, write_plan

    fields = plan_fields(model="tiny", name="tiny", resize=[18, 20], crop=[16, 16])
    write_plan(
        tmp_path / "a",
        make_tiny_graph(),
        fields,
        {"alpha_scale": [1.0, 2.0, 3.0]},
        Golden(),
        {},
        {},
    )
    table, _ = calibrated(tmp_path / "a", tmp_path / "b", good=good)
    assert table["alpha_scale"] == [1.0, 2.0, 3.0]


def test_bad_arguments(tiny_plan, good, tmp_path):
    plan = tmp_path / "a.plan"
    plan.write_bytes(tiny_plan.read_bytes())
    (tmp_path / "link.plan").symlink_to(plan)
    for output in (plan, tmp_path / "link.plan"):
        with pytest.raises(ArgumentError, match="is the plan itself"):
            recalibrate(plan, output, good=good)
    with pytest.raises(ArgumentError, match="no images"):
        recalibrate(plan, tmp_path / "b.plan")
    with pytest.raises(adfast.AdfastError, match="cannot write"):
        recalibrate(plan, tmp_path / "nowhere/b.plan", good=good)
    with pytest.raises(DataError):
        recalibrate(plan, tmp_path / "b.plan", good=tmp_path / "none")
    assert plan.read_bytes() == tiny_plan.read_bytes()


def test_a_signature_is_lost_and_that_is_said(tiny_plan, good, tmp_path):
    pytest.importorskip("cryptography")
    from adfast import signing

    public, _ = signing.make_key(tmp_path / "k.pem")
    signing.sign(tiny_plan, tmp_path / "k.pem", tmp_path / "signed.plan")
    out = tmp_path / "new.plan"
    _, said = calibrated(tmp_path / "signed.plan", out, good=good, public_key=public)
    assert [line for line in said if line.startswith("warning: ") and "sign it with" in line]
    with pytest.raises(adfast.PlanError, match="not signed"):
        adfast.load(out, public_key=public)
    plain, _ = tmp_path / "plain.plan", calibrated(tiny_plan, tmp_path / "plain.plan", good=good)
    assert plain.stat().st_size == out.stat().st_size
    with pytest.raises(adfast.PlanError, match="not signed"):
        calibrated(tiny_plan, tmp_path / "other.plan", good=good, public_key=public)


def test_the_command_line(tiny_plan, good, tmp_path, capsys):
    out = tmp_path / "line.plan"
    words = ["calibrate", tiny_plan, "-o", out, "--good", good, "--max-fpr", "0.04"]
    assert cli.main([*map(str, words), "--precision", "f32"]) == 0
    assert "the threshold was 0.05" in capsys.readouterr().err
    assert cli.main(["info", str(out)]) == 0
    text = capsys.readouterr().out
    assert "at most 0.04" in text and "calibrations" in text
    words[-1] = "0.001"
    assert cli.main([*map(str, words), "-q"]) == 1
    assert "that takes 1000" in capsys.readouterr().err
