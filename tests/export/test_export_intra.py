"""InTra's exported file: windows gathered once per token, and equal to PyTorch elsewhere."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx.inliner  # noqa: E402
from runtimes import check, onnx_runtime, openvino  # noqa: E402

from adfast.export import to_onnx  # noqa: E402
from adfast.models.intra import InTra, InTraConfig  # noqa: E402

TINY = {"patch": 8, "window": 3, "width": 16, "blocks": 3, "heads": 4, "crop": (32, 48)}
TINY |= {"resize": (40, 50), "filters": (100, 70)}


def make(**changes):
    """A model whose norms, positions and mean map are not those of an untrained one."""
    torch.manual_seed(0)
    model = InTra(InTraConfig(**TINY | changes))
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    torch.nn.init.normal_(model.position)
    torch.nn.init.normal_(model.inpaint)
    with torch.no_grad():
        model.mean_map.copy_(model.uncalibrated_map(torch.rand(1, 3, *model.config.crop)))
    return model


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module")
def proto(model):
    return to_onnx(model, {"model": "intra", "provenance": {"run": "test"}})


def test_the_graph_is_made_of_what_the_compiler_knows(model, proto):
    onnx.checker.check_model(proto, full_check=True)
    assert model.config.filter_sizes == (7, 5)
    calls = [node.op_type for node in proto.graph.node if node.domain == "adfast"]
    # The first block's x, q, k and v are gathered, three blocks attend, two scales are compared.
    expected = ["WindowGather"] * 4 + ["Attention"] * 3 + ["GmsMap", "GaussianBlur"] * 2
    assert calls == [*expected, "CalibrateMap"]
    kinds = {node.op_type for node in proto.graph.node if not node.domain}
    allowed = {"Conv", "MatMul", "Gemm", "Add", "LayerNormalization", "Concat", "Mul", "Div", "Erf"}
    allowed |= {"Reshape", "Transpose", "AveragePool", "Resize", "DepthToSpace"}
    # The batch of the hidden tokens, the size of the resizing: constants once the batch is known.
    allowed |= {"Shape", "Expand", "ReduceMean", "ReduceMax"}
    assert kinds <= allowed
    (node,) = [node for node in proto.graph.node if node.op_type == "DepthToSpace"]
    attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert attrs == {"blocksize": 8, "mode": b"DCR"}


def consumers(proto, name):
    return [node for node in proto.graph.node if name in node.input]


def test_the_first_blocks_projections_are_computed_once_per_patch(proto):
    """They read [B, N, D]; what they give is gathered, not what they read."""
    names = {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}
    assert names["window_index"] == [24, 9]
    gathers = [node for node in proto.graph.node if node.op_type == "WindowGather"]
    assert {node.input[1] for node in gathers} == {"window_index"}
    for gather in gathers[1:]:  # q, k and v go straight to the attention
        assert [node.op_type for node in consumers(proto, gather.output[0])] == ["Attention"]


def test_what_is_linear_follows_the_mean(proto):
    means = [node for node in proto.graph.node if node.op_type == "ReduceMean"]
    assert len(means) == 2
    gemms = [node for node in proto.graph.node if node.op_type == "Gemm"]
    # fc2 of the last block on the mean [W, 4 D], then the map to the pixels.
    assert [any(gemm.input[0] in m.output for m in means) for gemm in gemms] == [True, False]


def test_local_positions_are_one_small_constant():
    """The table is added per place in a window; nothing in the file has the size of all windows."""
    model = make(positions="local", attention="msa")
    proto = to_onnx(model, {})
    check(model, onnx_runtime(proto), 2)
    names = {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}
    assert names["local_patches"] == [8, 9] and names["window_index"] == [24, 9]
    floats = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    largest = max(floats, key=lambda tensor: np.prod(tensor.dims))
    assert np.prod(largest.dims) <= 3 * 8 * 8 * 16  # the patch projection


def test_metadata(model, proto):
    fields = {p.key.removeprefix("adfast."): json.loads(p.value) for p in proto.metadata_props}
    assert fields["model"] == "intra"
    assert InTraConfig.from_dict(fields["config"]) == model.config
    assert fields["frame"]["resize"] == [40, 50] and fields["frame"]["crop"] == [32, 48]
    assert fields["map"]["upsample"] == "bilinear" and fields["map"]["calibration"] == "square"
    assert fields["map"]["smoothing"]["sizes"] == [7, 5]
    assert fields["score"] == {"reduction": "max"}


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_onnx_runtime_agrees(model, proto, batch):
    check(model, onnx_runtime(proto), batch)


def test_other_runtimes_agree_after_inlining(model, proto):
    inlined = onnx.inliner.inline_local_functions(proto)
    assert not inlined.functions
    check(model, onnx_runtime(inlined), 2)
    check(model, openvino(proto), 2)


def test_other_choices_export_too():
    model = make(long_skips=False, blocks=1, window=2, scales=(1,), filters=(1,))
    check(model, onnx_runtime(to_onnx(model, {})), 2)
