"""ADTR's exported file: what it calls, and equal to PyTorch in ONNX Runtime."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from runtimes import check, onnx_runtime  # noqa: E402

from adfast.export import to_onnx  # noqa: E402
from adfast.models.adtr import ADTR, ADTRConfig  # noqa: E402


def make(**changes):
    """A small model whose BatchNorms have statistics and whose norms and biases do something."""
    torch.manual_seed(0)
    fields = {"backbone": "tf_efficientnet_b0", "crop": (64, 64), "resize": (64, 64), "dim": 32}
    fields |= {"blocks": 2, "heads": 4, "hidden": 48}
    model = ADTR(ADTRConfig(**fields | changes))
    for parameter in model.reconstruction.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.2)
    norms = [m for m in model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.8, 1.2)
        torch.nn.init.normal_(norm.bias, 0, 0.1)
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model(torch.rand(2, 3, *model.config.crop))
    for norm in norms:
        norm.eval()
    return model


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module")
def proto(model):
    return to_onnx(model, {})


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_runtime_agrees(model, proto, batch):
    check(model, onnx_runtime(proto), batch)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "resnet18", "levels": (0, 1, 2, 3), "crop": (50, 71), "resize": (60, 80)},
        {"backbone": "resnet18", "crop": (32, 32), "grid": (8, 8), "upsample": False, "pool": 3},
    ],
    ids=["odd", "cifar"],
)
def test_other_choices_export_too(changes):
    model = make(**changes)
    check(model, onnx_runtime(to_onnx(model, {})), 2)


def test_calls_and_metadata(model, proto):
    assert [n.op_type for n in proto.graph.node if n.domain == "adfast"] == ["Attention"] * 6
    fields = {p.key.removeprefix("adfast."): json.loads(p.value) for p in proto.metadata_props}
    assert fields["model"] == "adtr"
    assert ADTRConfig.from_dict(fields["config"]) == model.config
    assert fields["map"] == {"upsample": "bilinear", "align_corners": True}
    assert fields["score"] == {"reduction": "pooled_max", "pool": 16}
    assert "alpha_scale" not in fields and fields["frame"]["crop"] == [64, 64]


def test_the_image_reaches_the_decoder_by_its_cross_attention_only(proto):
    """What comes before depends on constants alone, for a compiler to fold."""
    reached = {"image"}
    touched = []
    for node in proto.graph.node:
        if reached & set(node.input):
            reached |= set(node.output)
            touched.append(node.name)
    first = "reconstruction.decoder.0."
    assert not [name for name in touched if name.startswith(first + "self_attention")]
    assert not [name for name in touched if name.startswith(first + "cross_attention.query")]
    assert [name for name in touched if name == first + "cross_attention.Attention"]
    # Feature map to tokens and back.
    shapes = [n.op_type for n in proto.graph.node if n.op_type in ("Reshape", "Transpose")]
    assert shapes == ["Reshape", "Transpose", "Transpose", "Reshape"]
    assert not [n for n in proto.graph.node if n.op_type == "Expand"]
