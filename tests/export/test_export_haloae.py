"""HaloAE's exported file: one node per halo attention, and equal to PyTorch elsewhere."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

import onnx.inliner  # noqa: E402

from adfast import onnx_functions  # noqa: E402
from adfast.models import layers  # noqa: E402

TOLERANCE = 1e-4  # of the map's maximum


def onnx_runtime(proto):
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda *inputs: session.run(
        None, {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)}
    )


def openvino(proto):
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


class TwoAttentions(torch.nn.Module):
    """Two calls with other heads, blocks and masks: one function body must do for both."""

    def forward(self, q, k, v, rows, columns, rows2, columns2):
        """Return [B, 16, H, W] and [B, 8, H, W]."""
        first = layers.halo_attention(q, k, v, rows, columns, 3, 1, 2, 0.7)
        second = layers.halo_attention(k, q, v[:, :8], rows2, columns2, 2, 2, 4, 0.3, True)
        return first, second


@pytest.mark.parametrize("runtime", [onnx_runtime, openvino])
def test_halo_attention_runs_elsewhere(runtime):
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.randn(shape, generator=generator)

    def inputs(batch):
        maps = rand(batch, 12, 12, 18), rand(batch, 12, 12, 18), rand(batch, 16, 12, 18)
        return [*maps, rand(9, 6), rand(9, 6), rand(11, 3), rand(11, 3)]

    model = TwoAttentions().eval()
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        model,
        tuple(inputs(2)),
        dynamo=True,
        opset_version=18,
        verbose=False,
        dynamic_shapes=({0: batch}, {0: batch}, {0: batch}, None, None, None, None),
    )
    proto = program.model_proto
    calls = [node for node in proto.graph.node if node.op_type == "HaloAttention"]
    assert len(calls) == 2
    assert {a.name for a in calls[0].attribute} == {
        "block",
        "halo",
        "heads",
        "scale",
        "legacy_mask",
    }
    onnx_functions.append_functions(proto)
    onnx.checker.check_model(proto, full_check=True)
    run = runtime(proto)
    for size in (1, 3):
        given = inputs(size)
        actual = run(*(t.numpy() for t in given))
        for value, expected in zip(actual, model(*given), strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
