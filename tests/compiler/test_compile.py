import json
import sys

import numpy as np
import onnx
import pytest
from small_models import (
    assert_same,
    floats,
    imported_equals_onnx,
    ints,
    model,
    positive,
    run_onnx,
    student_teacher,
)

from adfast.compiler import compile_onnx, load_onnx, reference
from adfast.errors import CompileError

pytest.importorskip("onnxruntime")


def saved(tmp_path, proto, name="model.onnx"):
    path = tmp_path / name
    onnx.save(proto, path)
    return path


def with_metadata(proto, **values):
    for key, value in values.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = f"adfast.{key}", json.dumps(value)
    return proto


def run_frame(compiled, frame):
    return reference.run(compiled.graph, frame=frame)


def image_of(frame, resize, crop):
    made = reference.frame(frame, resize, crop, 1, [1 / 255] * 3, [0, 0, 0])
    return {"image": made.astype(np.float32)}


def test_a_model_from_elsewhere(tmp_path):
    proto = student_teacher(side=24)
    compiled = compile_onnx(saved(tmp_path, proto, "screws.onnx"))
    ops = [node.op for node in compiled.graph.nodes]
    assert ops[0] == "frame" and ops[-1] == "reduce_max"
    assert not {"sub", "div", "batch_norm", "relu"} & set(ops[:-5])
    frame = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    expected = run_onnx(proto, image_of(frame, [24, 24], [24, 24]))["map"]
    got = run_frame(compiled, frame)
    assert_same({"map": got["map"]}, {"map": expected})
    assert got["score"] == pytest.approx([expected.max()], rel=1e-5)
    fields = compiled.fields
    assert (fields["model"], fields["name"]) == ("onnx", "screws")
    assert fields["frame.resize"] == fields["frame.crop"] == [24, 24]
    assert (compiled.onnx_input, compiled.onnx_map, compiled.onnx_score) == ("image", "map", "")


def test_the_models_metadata_sets_the_frame_and_the_fields(tmp_path):
    proto = with_metadata(
        student_teacher(side=24),
        format=1,
        model="peers",
        config={"width": 8},
        frame={"resize": [30, 28], "crop": [24, 24], "antialias": False},
        map={"smoothing": {"kind": "gaussian", "sigma": 2.0, "size": 9, "border": "reflect"}},
        provenance={"seed": 3},
    )
    compiled = compile_onnx(saved(tmp_path, proto), name="p")
    frame = compiled.graph.nodes[0].attrs
    assert (frame["resize"], frame["crop"], frame["antialias"]) == ([30, 28], [24, 24], 0)
    fields = compiled.fields
    assert (fields["model"], fields["name"], fields["map.size"]) == ("peers", "p", 9)
    assert json.loads(fields["config"]) == {"width": 8}
    assert compiled.metadata["provenance"] == {"seed": 3}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": 2}, "format 2, this compiler reads 1"),
        ({"format": 1, "frame": {"crop": [20, 20]}}, r"crops to \[20, 20\], but the input is"),
        ({"format": 1, "frame": {"interpolation": "nearest"}}, "interpolation is 'nearest'"),
        ({"format": 1, "frame": [1]}, "expected a JSON object"),
        ({"format": 1, "map": {"smoothing": {"sigma": "wide"}}}, "metadata is malformed"),
    ],
)
def test_metadata_that_does_not_fit(tmp_path, values, message):
    with pytest.raises(CompileError, match=message):
        compile_onnx(saved(tmp_path, with_metadata(student_teacher(), **values)))


def test_metadata_that_is_not_json():
    proto = student_teacher()
    entry = proto.metadata_props.add()
    entry.key, entry.value = "adfast.format", "{1"
    with pytest.raises(CompileError, match="'adfast.format' is not JSON"):
        load_onnx(proto)


def outputs_model(outputs, nodes):
    text = f"""g (float[N,3,8,8] image) => ({outputs})
    {{
        axis = Constant <value_ints = [1]> ()
        all = Constant <value_ints = [1, 2, 3]> ()
        sides = Constant <value_ints = [2, 3]> ()
        m = ReduceMean (image, axis)
        {nodes}
    }}"""
    return model(text)


@pytest.mark.parametrize(
    ("outputs", "nodes", "shape"),
    [
        ("float[N] score, float[N,1,8,8] map",
         "map = Relu(m) score = ReduceMax<keepdims=0>(m, all)", 1),
        ("float[N,1] pred_score, float[N,1,8,8] heat",
         "heat = Relu(m) pred_score = ReduceMax<keepdims=0>(m, sides)", 1),
        ("float[N,1,1,1] q, float[N,1,8,8] p", "p = Relu(m) q = ReduceMax(m, all)", 1),
        ("float[N,1,8,8] a, float[N,1,8,8] anomaly_map, float[N,3,8,8] features",
         "a = Relu(m) anomaly_map = Abs(m) features = Relu(image)", 0),
    ],
)  # fmt: skip
def test_outputs_are_found_by_name_and_shape(outputs, nodes, shape):
    graph = load_onnx(outputs_model(outputs, nodes))
    assert {role: value.shape for role, value in graph.outputs.items()} == {
        "map": (1, 1, 8, 8),
        "score": (1,),
    }


@pytest.mark.parametrize(
    ("outputs", "nodes", "message"),
    [
        (
            "float[N,3,8,8] y",
            "y = Relu(image)",
            r"no output is an anomaly map .* outputs: y \[1, 3",
        ),
        ("float[N,1,8,8] a, float[N,1,8,8] b", "a = Relu(m) b = Abs(m)", "several outputs may be"),
    ],
)
def test_outputs_that_cannot_be_told_apart(outputs, nodes, message):
    with pytest.raises(CompileError, match=message):
        load_onnx(outputs_model(outputs, nodes))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("float[N,8,8,3] image", r"expected \[B,3,H,W\], RGB; it looks like \[B,H,W,3\]"),
        ("float[N,1,8,8] image", r"has shape \[1, 1, 8, 8\], expected \[B,3,H,W\]"),
        ("float[N,3,8] image", r"has shape \[1, 3, 8\]"),
        ("float[N,3,8,8] image, float[N,3,8,8] other", "2 inputs"),
    ],
)
def test_the_input_must_be_one_rgb_image(inputs, message):
    with pytest.raises(CompileError, match=message):
        load_onnx(model(f"g ({inputs}) => (float[N,1,8,8] map) {{ map = Relu(image) }}"))


def test_what_no_pass_removes_is_refused_with_a_hint(tmp_path):
    text = """g (float[N,3,8,8] image) => (float[N,1,8,4] map)
    {
        axis = Constant <value_ints = [1]> ()
        t = Transpose <perm = [0, 1, 3, 2]> (image)
        e = Relu (t)
        s = Constant <value_ints = [0, 6, 8, 4]> ()
        r = Reshape (e, s)
        map = ReduceMean (r, axis)
    }"""
    with pytest.raises(CompileError) as raised:
        compile_onnx(saved(tmp_path, model(text)))
    assert "t (Transpose): transpose of [1, 3, 8, 8] to [1, 3, 8, 8]; the engine has no" in str(
        raised.value
    )
    assert "r (Reshape): reshape of" in str(raised.value)


def functions_model():
    """All adfast functions with their real bodies, on odd sizes."""
    from adfast.onnx_functions import append_functions

    levels = []
    for level in (1, 2, 3):
        levels.append(f"""
        f{level} = Resize <mode = "linear"> (x, , , size{level})
        g{level} = Resize <mode = "linear"> (z, , , size{level})
        t{level} = adfast.TokenAttention <scale = 0.4> (f{level}, group, group_bias)
        k{level} = MatMul (t{level}, key)
        a{level} = adfast.Attention <heads = 2, scale = 0.5> (k{level}, k{level}, t{level})
        p{level} = adfast.ProjectorAttention <scale = 0.6>
            (f{level}, g{level}, query, query_bias, k{level}, a{level})
        m{level}, e{level}, c{level} = adfast.ScoreMap (f{level}, p{level})""")
    proto = model(
        f"""g (float[N,6,7,8] x, float[N,6,7,8] z) => (float[N,1,13,14] y)
        {{
            {"".join(levels)}
            fused = adfast.FuseMaps <mode = 4, height = 13, width = 14>
                (m1, e1, c1, m2, e2, c2, m3, e3, c3, lambda)
            y = adfast.GaussianBlur <border = "reflect"> (fused, kernel)
        }}""",
        size1=ints(1, 6, 9, 11),
        size2=ints(1, 6, 5, 6),
        size3=ints(1, 6, 3, 3),
        group=floats(4, 6),
        group_bias=floats(4, seed=1),
        key=floats(6, 10, seed=2),
        query=floats(10, 6, seed=3),
        query_bias=floats(10, seed=4),
        kernel=positive(5),
        **{"lambda": positive(3)},
    )
    append_functions(proto)
    return proto


def test_adfast_functions_mean_what_their_bodies_compute():
    graph = imported_equals_onnx(functions_model())
    ops = [node.op for node in graph.nodes]
    assert ops.count("token_attention") == ops.count("query_projector_attention") == 3
    assert ops[-2:] == ["fuse_maps", "gaussian_blur"]


@pytest.mark.parametrize("mode", range(1, 7))
def test_fusion_modes(mode):
    from adfast.onnx_functions import append_functions

    names = [f"{part}{level}" for level in (1, 2, 3) for part in ("map", "mse", "cos")]
    shapes = [s for side in (8, 4, 2) for s in (f"N,1,{side},{side}", "N", "N")]
    inputs = ", ".join(f"float[{s}] {n}" for n, s in zip(names, shapes, strict=True))
    proto = model(
        f"g ({inputs}) => (float[N,1,9,7] y) {{ y = adfast.FuseMaps "
        f"<mode = {mode}, height = 9, width = 7> ({', '.join(names)}, scale) }}",
        scale=positive(3),
    )
    append_functions(proto)
    imported_equals_onnx(proto)


def test_a_newer_version_of_the_functions_is_refused():
    proto = functions_model()
    next(each for each in proto.opset_import if each.domain == "adfast").version = 2
    with pytest.raises(CompileError, match="version 2 of the adfast functions"):
        load_onnx(proto)


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "adfast.compiler.importer")
    monkeypatch.delattr("adfast.compiler.importer")
    with pytest.raises(CompileError, match=r'pip install "adfast\[compile\]"'):
        compile_onnx(tmp_path / "a.onnx")
