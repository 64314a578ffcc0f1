"""The models that are measured, at their papers' sizes with random weights."""

from __future__ import annotations

from pathlib import Path

import torch

import adfast
from adfast import models, parity
from adfast.compiler import Compiled, compile_onnx
from adfast.compiler.writer import Golden, write_plan
from adfast.export import export_onnx

_SCALES = {"alpha_scale": [1.0, 1.0, 1.0]}
MODELS = {
    "GTrans-R34": ("gtrans", {"backbone": "resnet34", **_SCALES}),
    "GTrans-WR50": ("gtrans", {"backbone": "wide_resnet50_2", **_SCALES}),
    "ADTR": ("adtr", {}),
    "ADTR+": ("adtr_plus", {}),
    "InTra": ("intra", {}),
    "SAAE": ("saae", {"width": 120}),
    "HaloAE": ("haloae", {}),
}
# Small enough for very many frames.
SMALL = {
    "GTrans-R18": (
        "gtrans",
        {"backbone": "resnet18", "resize": [96, 96], "crop": [96, 96], **_SCALES},
    )
}


def create(title: str) -> torch.nn.Module:
    """Create a model, the same each time."""
    torch.manual_seed(0)
    model = models.create(*(MODELS | SMALL)[title]).eval()
    randomise_norms(model)
    return model


def make(title: str, folder: Path) -> tuple[torch.nn.Module, Path, Path, Compiled]:
    """Make a model, its ONNX file and its plan, the same each time."""
    name, config = (MODELS | SMALL)[title]
    model = create(title)
    onnx_path = export_onnx((model, {"model": name, "config": config}), folder / "model.onnx")
    compiled = compile_onnx(onnx_path)
    plan = folder / "model.plan"
    write_plan(plan, compiled.graph, compiled.fields, {}, Golden(), {}, {})
    return model, onnx_path, plan, compiled


def randomise_norms(model: torch.nn.Module) -> None:
    """Give every BatchNorm statistics and weights as after a training.

    A new ResNet multiplies the branch of every residual block by zero: whatever its convolutions
    compute, the answer is the same, and no comparison would see an error there.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.3, 0.7)
            torch.nn.init.normal_(module.bias, 0, 0.2)
            torch.nn.init.normal_(module.running_mean, 0, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)


def quantise(plan: Path, compiled: Compiled, frames: list) -> None:
    """Give a plan what int8 needs, calibrated on `frames`, if this version of adfast can."""
    try:
        from adfast import quantize
    except ImportError:
        return
    graph = quantize.calibrate(
        compiled.graph, adfast.load(plan, device="cpu", precision="f32"), frames
    )
    write_plan(plan, graph, compiled.fields, {}, Golden(), {}, {})


def differences(
    model: torch.nn.Module, onnx_path: Path, compiled: Compiled, plan: Path, frames: list
) -> dict[str, dict[str, float]]:
    """Differences of ONNX Runtime and the engine from PyTorch f32, see `parity.difference`."""
    answers = {"onnxruntime": parity.from_onnxruntime(onnx_path, compiled)}
    for precision in ("f32", "bf16"):
        engine = adfast.load(plan, precision=precision)

        def answer(frame, engine=engine):
            result = engine.predict(frame)
            return result.score, result.network_map

        answers[f"engine_{precision}"] = answer
    expected = [parity.from_run(model)(frame) for frame in frames]
    return {
        name: parity.difference(expected, [call(frame) for frame in frames])
        for name, call in answers.items()
    }
