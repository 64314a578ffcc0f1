"""Small ONNX models for tests, written as text, with random weights."""

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from adfast.compiler import reference
from adfast.compiler.importer import import_onnx

HEADER = '<ir_version: 9, opset_import: ["" : 18, "adfast" : 1]>'


def model(text, header=HEADER, **weights):
    """Parse `name (inputs) => (outputs) { nodes }` and give it initializers."""
    parsed = onnx.parser.parse_model(header + text)
    for name, array in weights.items():
        parsed.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return parsed


def floats(*shape, seed=0, scale=1.0):
    values = np.random.default_rng(seed).standard_normal(shape) * scale
    return values.astype(np.float32)


def positive(*shape, seed=0):
    return np.abs(floats(*shape, seed=seed)) + np.float32(0.5)


def ints(*values):
    return np.array(values, np.int64)


def feeds_for(proto):
    """Random values for each input, the batch 1."""
    names = {each.name for each in proto.graph.initializer}
    feeds = {}
    for each in proto.graph.input:
        if each.name not in names:
            shape = [dim.dim_value or 1 for dim in each.type.tensor_type.shape.dim]
            feeds[each.name] = floats(*shape, seed=len(feeds) + 11)
    return feeds


def run_onnx(proto, feeds):
    """ONNX Runtime's answers by output name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def assert_same(got, expected, tolerance=1e-5):
    assert set(got) == set(expected)
    for name, want in expected.items():
        assert got[name].shape == want.shape, name
        largest = max(float(np.abs(want).max()), 1e-6)
        assert float(np.abs(got[name] - want).max()) <= tolerance * largest, name


def imported_equals_onnx(proto):
    """Import a model and compare the reference's answers with ONNX Runtime's; returns the graph."""
    feeds = feeds_for(proto)
    graph = import_onnx(proto)
    assert_same(reference.run(graph, feeds), run_onnx(proto, feeds))
    return graph


def student_teacher(width=8, side=24):
    """A model of someone else: two small networks, their squared difference is the map."""
    weights = {}
    for who, seed in (("t", 1), ("s", 50)):
        weights |= {
            f"{who}_w1": floats(width, 3, 3, 3, seed=seed, scale=0.3),
            f"{who}_b1": floats(width, seed=seed + 1),
            f"{who}_gamma": positive(width, seed=seed + 2),
            f"{who}_beta": floats(width, seed=seed + 3),
            f"{who}_mean": floats(width, seed=seed + 4),
            f"{who}_var": positive(width, seed=seed + 5),
            f"{who}_w2": floats(width, width, 3, 3, seed=seed + 6, scale=0.2),
            f"{who}_w3": floats(width, width, 1, 1, seed=seed + 7, scale=0.3),
        }
    trunk = """
        {w}1 = Conv <pads = [1, 1, 1, 1]> (normal, {w}_w1, {w}_b1)
        {w}2 = BatchNormalization ({w}1, {w}_gamma, {w}_beta, {w}_mean, {w}_var)
        {w}3 = Relu ({w}2)
        {w}4 = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> ({w}3)
        {w}5 = Conv <pads = [1, 1, 1, 1]> ({w}4, {w}_w2)
        {w}6 = Relu ({w}5)
        {w}7 = Conv ({w}6, {w}_w3)
        {w}8 = Add ({w}7, {w}4)
        {w}9 = Relu ({w}8)"""
    return model(
        f"""
        peers (float[N,3,{side},{side}] image) => (float[N,1,{side},{side}] map)
        {{
            centred = Sub (image, mean)
            normal = Div (centred, std)
            {trunk.format(w="t")}
            {trunk.format(w="s")}
            difference = Sub (t9, s9)
            squares = Mul (difference, difference)
            axis = Constant <value_ints = [1]> ()
            small = ReduceMean (squares, axis)
            batch = Shape <start = 0, end = 2> (small)
            size = Concat <axis = 0> (batch, sides)
            map = Resize <mode = "linear"> (small, , , size)
        }}""",
        mean=np.float32([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1),
        std=np.float32([0.229, 0.224, 0.225]).reshape(3, 1, 1),
        sides=ints(side, side),
        **weights,
    )
