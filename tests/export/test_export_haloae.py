"""HaloAE's exported file: one node per halo attention, and equal to PyTorch elsewhere."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx.inliner  # noqa: E402
from runtimes import check, onnx_runtime, openvino  # noqa: E402

from adfast import onnx_functions  # noqa: E402
from adfast.export import to_onnx  # noqa: E402
from adfast.models import layers  # noqa: E402
from adfast.models.haloae import HaloAE, HaloAEConfig  # noqa: E402


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


TINY = {"backbone": "vgg11", "layers": (1, 2, 3), "crop": (64, 112), "resize": (64, 120)}
TINY |= {"head_width": 12, "widths": (12, 10), "filters": (3, 5), "heads": (1, 2)}
TINY |= {"decoder_widths": (10,), "decoder_filters": (3, 1), "decoder_heads": (2, 1)}
TINY |= {"head_dim": 4, "image_widths": (8, 8, 4, 4)}


def make(**changes):
    """A model whose norms and mean map are not those of an untrained one."""
    torch.manual_seed(0)
    model = HaloAE(HaloAEConfig(**TINY | changes))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            torch.nn.init.normal_(module.running_mean, 0, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    model.mean_map.uniform_(0, 40)
    return model


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module")
def proto(model):
    return to_onnx(model, {"model": "haloae", "provenance": {"run": "test"}})


def test_the_graph_is_made_of_what_the_compiler_knows(proto):
    onnx.checker.check_model(proto, full_check=True)
    calls = [node.op_type for node in proto.graph.node if node.domain == "adfast"]
    assert calls == ["HaloAttention"] * 4 + ["CalibrateMap", "GaussianBlur"]
    kinds = {node.op_type for node in proto.graph.node if not node.domain}
    allowed = {"Conv", "ConvTranspose", "Relu", "MaxPool", "AveragePool", "Pad", "Concat", "Add"}
    allowed |= {"Sub", "Mul", "Div", "ReduceSum", "ReduceMean", "Resize"}
    # The size of the resizings: constants once the batch is known.
    assert kinds <= allowed | {"Shape"}
    # Norms are folded; the image branch and the classifier are not there.
    names = [tensor.name for tensor in proto.graph.initializer]
    assert any(name.startswith("autoencoder.decoder.1.") for name in names)
    assert not [n for n in names if n.startswith(("image_decoder", "classifier"))]


def test_metadata(model, proto):
    fields = {p.key.removeprefix("adfast."): json.loads(p.value) for p in proto.metadata_props}
    assert fields["model"] == "haloae"
    assert HaloAEConfig.from_dict(fields["config"]) == model.config
    smoothing = {"kind": "gaussian", "sigma": 0.8, "size": 3, "border": "reflect"}
    wanted = {"upsample": "bilinear", "align_corners": False, "calibration": "absolute"}
    assert fields["map"] == {**wanted, "smoothing": smoothing}
    assert fields["score"] == {"reduction": "mean"}


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_runtime_agrees(model, proto, batch):
    check(model, onnx_runtime(proto), batch)
    inlined = onnx.inliner.inline_local_functions(proto)
    assert not inlined.functions
    check(model, onnx_runtime(inlined), batch)


def test_openvino_agrees_after_inlining(model, proto):
    check(model, openvino(proto), 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"legacy_mask": True, "crop": (160, 160), "resize": (160, 160), "head_width": 8},
        {"map_source": "image", "block": 6, "halo": 1},
        # The fourth convolution of vgg11 is the last of stride 4, the fifth has stride 8.
        {"backbone": "vgg11_bn", "layers": (2, 5), "head_filter": 1, "crop": (48, 96)},
    ],
    ids=["legacy mask", "image map", "batch norms, stride 8"],
)
def test_other_choices_export_too(changes):
    model = make(**changes)
    proto = to_onnx(model, {})
    check(model, onnx_runtime(proto), 2)
    branch = any("image_decoder" in tensor.name for tensor in proto.graph.initializer)
    assert branch is (changes.get("map_source") == "image")
