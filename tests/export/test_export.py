"""The exported file: valid, self-describing, and equal to PyTorch in other runtimes."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

import onnx.inliner  # noqa: E402

from adfast import onnx_functions  # noqa: E402
from adfast.errors import AdfastError, ModelError  # noqa: E402
from adfast.export import export_onnx, to_onnx  # noqa: E402
from adfast.models import layers  # noqa: E402
from adfast.models.gtrans import FUSIONS, GTrans, GTransConfig  # noqa: E402

TOLERANCE = 1e-4  # of the map's maximum


def make(fusion="P6", **changes):
    """A model whose BatchNorms have statistics, so that folding them is tested."""
    torch.manual_seed(0)
    fields = {"backbone": "resnet18", "crop": (64, 64), "resize": (73, 73)} | changes
    model = GTrans(GTransConfig(fusion=fusion, alpha_scale=(150.0, 120.0, 300.0), **fields))
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.3, 0.6)
        torch.nn.init.normal_(norm.bias, 0, 0.1)
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model(torch.rand(2, 3, *model.config.crop))
        for norm in norms:
            norm.eval()
            norm.running_mean += 0.05 * torch.randn_like(norm.running_mean)
    return model


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module")
def proto(model):
    return to_onnx(model, {"model": "gtrans", "provenance": {"run": "test"}})


def worst(actual, expected):
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def torch_outputs(model, image):
    with torch.no_grad():
        return [t.numpy() for t in model(torch.from_numpy(image))]


def images(count, crop=(64, 64)):
    return np.random.default_rng(count).random((count, 3, *crop), dtype=np.float32)


def session(proto):
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def test_the_file_is_valid_and_as_agreed(proto):
    onnx.checker.check_model(proto, full_check=True)
    assert {o.domain: o.version for o in proto.opset_import} == {"": 18, "adfast": 1}
    (image,) = proto.graph.input
    score, anomaly_map = proto.graph.output
    assert (image.name, score.name, anomaly_map.name) == ("image", "score", "map")
    dims = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert dims == ["batch", 3, 64, 64]
    calls = [n.op_type for n in proto.graph.node if n.domain == "adfast"]
    counts = {name: calls.count(name) for name in calls}
    assert counts == {
        "TokenAttention": 6,
        "Attention": 4,
        "ProjectorAttention": 3,
        "ScoreMap": 3,
        "FuseMaps": 1,
        "GaussianBlur": 1,
    }
    assert {f.name for f in proto.functions} == counts.keys()
    for function in proto.functions:
        assert {node.domain for node in function.node} == {""}
    allowed = {"Conv", "BatchNormalization", "Relu", "MaxPool", "Add", "MatMul", "Gemm", "Sub"}
    allowed |= {"Div", "LayerNormalization", "Concat", "Slice", "Split", "ReduceMax"}
    assert {n.op_type for n in proto.graph.node if not n.domain} <= allowed


def test_names_tell_where_things_come_from(model, proto):
    names = {tensor.name for tensor in proto.graph.initializer}
    assert not [name for name in names if name.startswith("val_")]
    for name in (
        "agn.layer2.0.conv1.weight",
        "agn.layer2.0.conv1.bias",
        "trans.layer3.1.conv2.weight",
        "tfm.encoder.1.query.weight_t",
        "mapper.2.value.weight_t",
        "alpha_scale",
        "gaussian",
    ):
        assert name in names
    nodes = {node.name for node in proto.graph.node}
    assert len(nodes) == len(proto.graph.node)
    assert {"trans.layer1.0.conv2.Conv", "tfm.decoder.0.Attention", "FuseMaps"} <= nodes
    assert b"/python/adfast" not in proto.SerializeToString()  # no source paths


def test_metadata(model, proto):
    fields = {p.key.removeprefix("adfast."): json.loads(p.value) for p in proto.metadata_props}
    assert fields["format"] == 1 and fields["model"] == "gtrans"
    assert GTransConfig.from_dict(fields["config"]) == model.config
    assert fields["frame"] == {
        "resize": [73, 73],
        "crop": [64, 64],
        "interpolation": "bilinear",
        "antialias": True,
        "color": "rgb",
    }
    smoothing = fields["map"].pop("smoothing")
    assert fields["map"] == {"upsample": "bilinear", "align_corners": False}
    assert smoothing["kind"] == "gaussian" and smoothing["border"] == "reflect"
    assert smoothing["size"] == model.gaussian.numel()
    assert smoothing["sigma"] == pytest.approx(4 * 64 / 224)
    assert fields["score"] == {"reduction": "max"}
    assert fields["alpha_scale"] == [150, 120, 300]
    assert fields["provenance"] == {"run": "test"}


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_runtime_agrees(model, proto, batch):
    image = images(batch)
    actual = session(proto).run(["score", "map"], {"image": image})
    for value, expected in zip(actual, torch_outputs(model, image), strict=True):
        assert value.shape == expected.shape and worst(value, expected) < TOLERANCE


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_mode_and_inlining(proto, fusion):
    """The mode only changes one node and one body; the model around it stays."""
    mode = FUSIONS.index(fusion) + 1
    model = make(fusion)
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    (node,) = [n for n in changed.graph.node if n.op_type == "FuseMaps"]
    next(a for a in node.attribute if a.name == "mode").i = mode
    kept = [f for f in changed.functions if f.name != "FuseMaps"]
    del changed.functions[:]
    changed.functions.extend(kept)
    onnx_functions.append_functions(changed)
    image = images(2)
    expected = torch_outputs(model, image)
    inlined = onnx.inliner.inline_local_functions(changed)
    assert not inlined.functions and {n.domain for n in inlined.graph.node} == {""}
    for variant in (changed, inlined):
        actual = session(variant).run(["score", "map"], {"image": image})
        for value, wanted in zip(actual, expected, strict=True):
            assert worst(value, wanted) < TOLERANCE


def test_openvino_agrees_after_inlining(model, proto):
    openvino = pytest.importorskip("openvino")
    inlined = onnx.inliner.inline_local_functions(proto)
    core = openvino.Core()
    # Where the processor has bf16, OpenVINO would compute in it unasked.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(inlined.SerializeToString()), "CPU", options)
    for batch in (1, 3):
        image = images(batch)
        actual = compiled({"image": image})
        expected = torch_outputs(model, image)
        for name, wanted in zip(("score", "map"), expected, strict=True):
            assert worst(actual[name], wanted) < TOLERANCE


def test_other_choices_export_too():
    model = make("P2", crop=(50, 71), resize=(60, 80), mapper_source="encoder", blocks=1, groups=3)
    image = images(2, (50, 71))
    actual = session(to_onnx(model, {})).run(["score", "map"], {"image": image})
    for value, expected in zip(actual, torch_outputs(model, image), strict=True):
        assert worst(value, expected) < TOLERANCE


class Call(torch.nn.Module):
    """One function of `layers` as a model, to export it alone."""

    def __init__(self, function, *options):
        super().__init__()
        self.function, self.options = function, options

    def forward(self, *inputs):
        return self.function(*inputs, *self.options)


GENERATOR = torch.Generator().manual_seed(0)


def rand(*shape):
    return torch.randn(shape, generator=GENERATOR)


CASES = {
    "TokenAttention": (
        Call(layers.token_attention, 0.3),
        (rand(2, 6, 5, 7), rand(3, 6), rand(3)),
    ),
    "Attention": (
        Call(layers.attention, 2, 0.4),
        (rand(2, 5, 8), rand(2, 7, 8), rand(2, 7, 6)),
    ),
    "ProjectorAttention": (
        Call(layers.projector_attention, 0.2),
        (rand(2, 6, 3, 5), rand(2, 6, 3, 5), rand(4, 6), rand(4), rand(2, 3, 4), rand(2, 3, 6)),
    ),
    "ScoreMap": (Call(layers.score_map), (rand(2, 6, 3, 5), rand(2, 6, 3, 5))),
    "GaussianBlur": (
        Call(layers.gaussian_blur),
        (rand(2, 1, 9, 11), layers.gaussian_kernel(1.3, 4)),
    ),
    "WindowGather": (
        Call(layers.window_gather),
        (rand(2, 5, 3), torch.tensor([[4, 0], [1, 1], [2, 3], [0, 4]])),
    ),
    "GmsMap": (Call(layers.gms_map, 0.0026), (rand(2, 3, 5, 7), rand(2, 3, 5, 7))),
    "CalibrateMap": (
        Call(layers.calibrate_map, "square"),
        (rand(2, 1, 5, 7), rand(1, 1, 5, 7)),
    ),
    "CalibrateMap absolute": (
        Call(layers.calibrate_map, "absolute"),
        (rand(2, 1, 5, 7), rand(1, 1, 5, 7)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_function_alone(case):
    """Exported as its node, run through its body, against the formula."""
    call, inputs = CASES[case]
    name = case.split()[0]
    expected = call(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    program = torch.onnx.export(call.eval(), inputs, dynamo=True, opset_version=18, verbose=False)
    proto = program.model_proto
    assert [node.op_type for node in proto.graph.node if node.domain == "adfast"] == [name]
    onnx_functions.append_functions(proto)
    feeds = {i.name: t.numpy() for i, t in zip(proto.graph.input, inputs, strict=True)}
    for actual, wanted in zip(session(proto).run(None, feeds), expected, strict=True):
        assert actual.shape == tuple(wanted.shape) and worst(actual, wanted.numpy()) < 1e-5


def test_equal_features_give_zero_not_nan():
    """0 / 0 in eq. 18: both sides of FuseMaps and ScoreMap define it as no anomaly."""
    a = rand(1, 4, 6, 5)
    maps, mse, cos = layers.score_map(a, a)

    def fuse(p, m, c):
        return layers.fuse_maps([p] * 3, [m] * 3, [c] * 3, torch.ones(3), 6, (9, 7))

    call = Call(fuse)
    program = torch.onnx.export(call, (maps, mse, 0 * cos), dynamo=True, verbose=False)
    proto = program.model_proto
    onnx_functions.append_functions(proto)
    feeds = [maps.numpy(), mse.numpy(), 0 * cos.numpy()]
    feeds = {i.name: t for i, t in zip(proto.graph.input, feeds, strict=True)}
    (fused,) = session(proto).run(None, feeds)
    assert (fused == 0).all() and fused.shape == (1, 1, 9, 7)


def test_a_run_is_exported_with_its_provenance(tmp_path):
    from safetensors.torch import save_file

    model = make()
    run = tmp_path / "run"
    run.mkdir()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, run / "best.safetensors")
    info = {
        "model": "gtrans",
        "config": model.config.to_dict(),
        "training": {"seed": 5, "epochs": 2, "data": "/somewhere", "weights": "/w.npz"},
        "data": {"root": "/somewhere", "train": ["a"], "validation": ["b"], "sha256": "0" * 64},
        "weights": {"source": "w.npz"},
        "finished": True,
    }
    (run / "config.json").write_text(json.dumps(info))
    path = export_onnx(run, tmp_path / "model.onnx")
    fields = {p.key: json.loads(p.value) for p in onnx.load(path).metadata_props}
    provenance = fields["adfast.provenance"]
    assert provenance["run"] == "run" and provenance["seed"] == 5
    assert provenance["data_sha256"] == "0" * 64 and provenance["weights"]["source"] == "w.npz"
    assert "/somewhere" not in json.dumps(fields)  # where things lie is the trainer's business
    with pytest.raises(AdfastError, match="cannot write"):
        export_onnx(run, tmp_path / "none" / "model.onnx")
    with pytest.raises(ModelError, match="not the folder of a training run"):
        export_onnx(tmp_path, tmp_path / "other.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "run"]
