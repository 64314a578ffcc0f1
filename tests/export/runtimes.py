"""Exported files run elsewhere, and the comparison of what comes out with PyTorch."""

import numpy as np
import onnx.inliner
import onnxruntime
import pytest
import torch

TOLERANCE = 1e-4  # of the largest value


def onnx_runtime(proto):
    """Return run(*inputs) -> outputs of the graph, in order."""
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return lambda *inputs: session.run(
        None, {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)}
    )


def openvino(proto):
    """Return run(*inputs) -> outputs, after the functions were made plain operators."""
    core = pytest.importorskip("openvino").Core()
    # Where the processor has bf16, OpenVINO would compute in it unasked.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    inlined = onnx.inliner.inline_local_functions(proto)
    assert not inlined.functions
    compiled = core.compile_model(core.read_model(inlined.SerializeToString()), "CPU", options)

    def run(*inputs):
        found = compiled(list(inputs))
        return [found[i] for i in range(len(found))]

    return run


def check(model, run, batch):
    """Compare run(image) -> score, map with PyTorch."""
    shape = (batch, 3, *model.config.crop)
    image = np.random.default_rng(batch).random(shape, dtype=np.float32)
    with torch.no_grad():
        expected = [t.numpy() for t in model(torch.from_numpy(image))]
    for value, wanted in zip(run(image), expected, strict=True):
        assert value.shape == wanted.shape
        assert np.abs(value - wanted).max() <= TOLERANCE * np.abs(wanted).max()
