"""The models that are measured, at their papers' sizes with random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from adfast import models
from adfast.compiler import Compiled, compile_onnx
from adfast.compiler.writer import Golden, write_plan
from adfast.export import export_onnx

_SCALES = {"alpha_scale": [1.0, 1.0, 1.0]}
MODELS = {
    "GTrans-R34": ("gtrans", {"backbone": "resnet34", **_SCALES}),
    "GTrans-WR50": ("gtrans", {"backbone": "wide_resnet50_2", **_SCALES}),
    "ADTR": ("adtr", {}),
    "SAAE": ("saae", {"width": 120}),
}


def make(title: str, folder: Path) -> tuple[torch.nn.Module, Path, Path, Compiled]:
    """Make a model, its ONNX file and its plan, the same each time."""
    name, config = MODELS[title]
    torch.manual_seed(0)
    model = models.create(name, config).eval()
    onnx_path = export_onnx((model, {"model": name, "config": config}), folder / "model.onnx")
    compiled = compile_onnx(onnx_path)
    plan = folder / "model.plan"
    write_plan(plan, compiled.graph, compiled.fields, {}, Golden(), {}, {})
    return model, onnx_path, plan, compiled
