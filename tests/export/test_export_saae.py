"""SAAE's exported file: one attention node per attention, and equal to PyTorch elsewhere."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx.inliner  # noqa: E402
from runtimes import check, onnx_runtime, openvino  # noqa: E402

from adfast.export import to_onnx  # noqa: E402
from adfast.models.saae import SAAE, SAAEConfig  # noqa: E402

TINY = {"backbone": "vit_tiny_patch16_224", "layers": (0, 1, 2), "crop": (32, 48)}
TINY |= {"resize": (40, 50), "width": 12}


def make(**changes):
    """A model whose norms and learned tokens are not those of an untrained one."""
    torch.manual_seed(0)
    model = SAAE(SAAEConfig(**TINY | changes))
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.LayerNorm)):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    torch.nn.init.normal_(model.transformer.position)
    torch.nn.init.normal_(model.transformer.query)
    return model


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module")
def proto(model):
    return to_onnx(model, {"model": "saae", "provenance": {"run": "test"}})


def test_the_graph_is_made_of_what_the_compiler_knows(proto):
    onnx.checker.check_model(proto, full_check=True)
    calls = [node.op_type for node in proto.graph.node if node.domain == "adfast"]
    # Two blocks of the ViT, one of the encoder, two of the decoder.
    assert calls == ["Attention"] * 5
    kinds = {node.op_type for node in proto.graph.node if not node.domain}
    allowed = {"Conv", "Relu", "MatMul", "Add", "LayerNormalization", "Concat", "Slice", "Split"}
    allowed |= {"Reshape", "Transpose", "Sub", "Mul", "Div", "Erf", "ReduceSum", "Sqrt", "Resize"}
    # The class token's batch and the size of the resizing: constants once the batch is known.
    allowed |= {"Shape", "Expand", "ReduceMax"}
    assert kinds <= allowed
    # Maps become tokens twice (patches, CE) and back twice (f, TD); heads split in the function.
    assert sum(node.op_type == "Transpose" for node in proto.graph.node) == 4
    # Named after modules, none after what the tracer makes for itself.
    assert not [node.name for node in proto.graph.node if node.name.startswith("_")]


def test_the_tail_of_the_vit_is_not_there(proto):
    names = [tensor.name for tensor in proto.graph.initializer]
    assert any(name.startswith("vit.blocks.1.") for name in names)
    assert not [n for n in names if n.startswith(("vit.blocks.2", "vit.norm", "vit.head"))]


def test_metadata(model, proto):
    fields = {p.key.removeprefix("adfast."): json.loads(p.value) for p in proto.metadata_props}
    assert fields["model"] == "saae"
    assert SAAEConfig.from_dict(fields["config"]) == model.config
    assert fields["frame"]["resize"] == [40, 50] and fields["frame"]["crop"] == [32, 48]
    assert fields["map"] == {"upsample": "bilinear", "align_corners": False}
    assert fields["score"] == {"reduction": "max"}
    assert fields["provenance"] == {"run": "test"}


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_runtime_agrees(model, proto, batch):
    check(model, onnx_runtime(proto), batch)
    inlined = onnx.inliner.inline_local_functions(proto)
    assert not inlined.functions
    check(model, onnx_runtime(inlined), batch)


def test_openvino_agrees_after_inlining(model, proto):
    check(model, openvino(proto), 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": (1,), "depth": 2, "heads": 1, "width": 5, "mlp_factor": 1},
        {"backbone": "deit_tiny_distilled_patch16_224", "layers": (0,), "std": (0.5, 0.5, 0.5)},
        {
            "backbone": "vit_small_patch14_reg4_dinov2",
            "layers": (0, 1),
            "crop": (28, 42),
            "norm_eps": 1e-5,
        },
    ],
    ids=["one layer", "projection only", "registers and layer scale"],
)
def test_other_choices_export_too(changes):
    model = make(**changes)
    check(model, onnx_runtime(to_onnx(model, {})), 2)
