"""The frame op against PyTorch's own resize, which training uses."""

from __future__ import annotations

import numpy as np
import pytest

from adfast import _core
from adfast.compiler.graph import Graph
from adfast.compiler.writer import Golden, plan_fields, write_plan

torch = pytest.importorskip("torch", reason="the reference of the resize is PyTorch's")

SIZES = [(256, 256), (480, 640), (103, 222), (1000, 700), (40, 2000), (17, 9), (1, 1), (2, 500)]


def frame_plan(path, resize, crop):
    """A plan whose map is one channel of the resized frame: the mean of the three."""
    graph = Graph("frame")
    attrs = {"resize": resize, "crop": crop, "antialias": 1, "scale": [1.0] * 3, "bias": [0.0] * 3}
    (frame,) = graph.add("frame", [], attrs, name="frame")
    (mean,) = graph.add("reduce_mean", [frame], {"axes": [1], "keepdims": 1}, name="mean")
    (score,) = graph.add("reduce_max", [mean], {"axes": [1, 2, 3], "keepdims": 0}, name="score")
    graph.output("map", mean)
    graph.output("score", score)
    fields = plan_fields(model="frame", name="frame", resize=resize, crop=crop)
    write_plan(path, graph, fields, {}, Golden(), {}, {})


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512", "avx512_bf16", "avx512_amx"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_resize_is_pytorchs(tmp_path, isa, size):
    resize, crop = [64, 73], [56, 61]
    frame_plan(tmp_path / "frame.plan", resize, crop)
    plan = _core.Plan(str(tmp_path / "frame.plan"))
    try:
        engine = _core.Engine(plan, isa=isa)
    except ValueError as error:
        pytest.skip(str(error))
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(
        image, size=resize, mode="bilinear", antialias=True, align_corners=False
    )
    top, left = (resize[0] - crop[0]) // 2, (resize[1] - crop[1]) // 2
    expected = resized[0, :, top : top + crop[0], left : left + crop[1]].mean(0).numpy()
    got = engine.predict(frame)["network_map"]
    assert np.abs(got - expected).max() <= 255 * 2e-6
