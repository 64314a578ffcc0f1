"""The memory that an engine declares, against what its process comes to hold."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import adfast
from adfast import cli, models
from adfast.build import tile_fields
from adfast.compiler import compile_onnx
from adfast.compiler.writer import Golden, write_plan
from adfast.export import export_onnx

CODE = """
import json, sys
import numpy as np, adfast

def status(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) * 1024

def forget_the_peak():
    open("/proc/self/clear_refs", "w").write("5")

plan, precision, height, width = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
frame = np.full((height, width), 90, np.uint8)
before = status("VmRSS")
forget_the_peak()
engine = adfast.load(plan, device="cpu", precision=precision, threads=2)
loading = status("VmHWM") - before
forget_the_peak()
for _ in range(3):
    engine.predict(frame)
print(json.dumps({"loading": loading, "running": status("VmHWM") - before,
                  "declared": engine.memory(height, width)}))
"""


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """Plans of real size: GTrans on ResNet-18 with random weights, whole frames and tiles."""
    folder = tmp_path_factory.mktemp("memory")
    config = {"backbone": "resnet18", "alpha_scale": [1.0, 1.0, 1.0]}
    model = models.create("gtrans", config).eval()
    path = export_onnx((model, {"model": "gtrans", "config": config}), folder / "model.onnx")
    compiled = compile_onnx(path)
    for name, tiles in (("whole", {}), ("tiles", tile_fields((512, 512), 64))):
        fields = {**compiled.fields, **tiles}
        write_plan(folder / f"{name}.plan", compiled.graph, fields, {}, Golden(), {}, {})
    return folder


@pytest.mark.parametrize(("name", "height", "width"), [("whole", 600, 800), ("tiles", 2000, 3000)])
def test_declared_memory_is_held_within_a_tenth(name, height, width, precision, plans):
    arguments = [str(plans / f"{name}.plan"), precision, str(height), str(width)]
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    for what in ("loading", "running"):
        declared = got["declared"][what]
        assert abs(got[what] - declared) <= 0.1 * declared, (what, got)


def test_info_declares_the_memory(plans, capsys):
    plan = str(plans / "whole.plan")
    assert cli.main(["info", plan, "--json", "--frame", "1920x1080"]) == 0
    use = json.loads(capsys.readouterr().out)["memory"]
    assert use["frame_size"] == [1920, 1080]
    engine = adfast.load(plan, device="cpu")
    assert {key: use[key] for key in engine.memory()} == engine.memory(1080, 1920)
    assert cli.main(["info", plan]) == 0
    assert "MB at most" in capsys.readouterr().out


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (5, 1 << 20)])
def test_a_frame_that_cannot_be_has_no_memory(size, tiny_plan):
    with pytest.raises(adfast.ArgumentError, match=r"\[memory\] the frame is"):
        adfast.load(tiny_plan).memory(*size)


def test_a_size_is_two_numbers(tiny_plan, capsys):
    assert cli.main(["info", str(tiny_plan), "--frame", "1920"]) == 2
    assert "expected as in 1920x1080" in capsys.readouterr().err
