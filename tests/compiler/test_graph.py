import numpy as np
import pytest

from adfast.compiler import ops
from adfast.compiler.graph import Graph
from adfast.errors import CompileError


def small():
    graph = Graph("small")
    x = graph.input("x", (1, 4, 6, 5))
    w = graph.constant("w", np.ones((8, 4, 3, 3)))
    (y,) = graph.add("conv2d", [x, w], {"pads": [1, 1, 1, 1], "activation": "relu"}, name="conv")
    (z,) = graph.add("reduce_max", [y], {"axes": [1], "keepdims": 1}, name="top")
    graph.output("z", z)
    return graph


def test_printing_shows_a_line_per_node_with_shapes_and_what_is_not_default():
    assert str(small()) == (
        "graph small\n"
        "  input %x [1,4,6,5]\n"
        "  %conv = conv2d(%x, w:const[8,4,3,3]) {pads=[1,1,1,1], activation=relu} -> [1,8,6,5]\n"
        "  %top = reduce_max(%conv) {axes=[1]} -> [1,1,6,5]\n"
        "  output z = %top"
    )


def test_names_are_made_unique():
    graph = Graph()
    x = graph.input("x", (1, 4))
    names = [graph.add("relu", [x], name="a")[0].name for _ in range(3)]
    assert names == ["a", "a.2", "a.3"]
    assert [node.name for node in graph.nodes] == names


def test_a_copy_is_independent():
    graph = small()
    before = str(graph)
    copy = graph.copy()
    assert str(copy) == before
    copy.nodes[0].attrs["activation"] = "none"
    copy.remove(copy.nodes[1])
    assert str(graph) == before
    graph.check()


def test_constants_are_read_only_float32_and_keep_scalars():
    graph = Graph()
    value = graph.constant("c", 2)
    assert value.shape == () and value.array.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        value.array[()] = 3


def test_check_refuses_what_is_read_before_it_is_made():
    graph = small()
    graph.nodes.reverse()
    with pytest.raises(
        CompileError, match=r"top: reduce_max reads %conv\[1,8,6,5\] before it is made"
    ):
        graph.check()


def test_check_refuses_a_shape_that_does_not_follow():
    graph = small()
    graph.nodes[0].output.shape = (1, 9, 6, 5)
    with pytest.raises(CompileError, match=r"conv: conv2d has outputs"):
        graph.check()


def test_check_refuses_two_values_of_one_name():
    graph = small()
    graph.nodes[1].output.name = "conv"
    with pytest.raises(CompileError, match="two values are named 'conv'"):
        graph.check()


def test_check_refuses_an_output_that_nothing_makes():
    graph = small()
    graph.remove(graph.nodes[1])
    with pytest.raises(CompileError, match="output 'z': nothing makes"):
        graph.check()


def test_check_refuses_ops_of_the_compiler_when_asked():
    graph = Graph()
    (y,) = graph.add("erf", [graph.input("x", (1, 4))], name="e")
    graph.output("y", y)
    graph.check()
    with pytest.raises(CompileError, match="e: erf is not an op of the engine"):
        graph.check(engine_only=True)


def test_check_refuses_a_constant_where_the_engine_takes_activations():
    graph = Graph()
    x, q = graph.input("x", (1, 4, 8)), graph.constant("q", np.ones((1, 2, 8)))
    # A learned query is fine.
    (y,) = graph.add("attention", [q, x, x], {"scale": 1.0}, name="a")
    graph.output("y", y)
    graph.check(engine_only=True)
    graph.output("z", graph.add("softmax", [q], name="s")[0])
    graph.check()
    with pytest.raises(CompileError, match="s: softmax: x is the constant q"):
        graph.check(engine_only=True)


def test_rewrite_keeps_the_outputs_and_swaps_names():
    graph = small()
    conv, top = graph.nodes
    with pytest.raises(CompileError, match="would make"):
        graph.rewrite(top, "relu", [conv.output])
    relu = graph.add("relu", [conv.output], name="act", before=top)[0].producer
    graph.rewrite(relu, "neg", [conv.output], like=conv)
    assert (relu.name, relu.output.name, conv.name) == ("conv", "conv", "act")
    graph.check()


@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "message"),
    [
        ("conv2d", [(1, 4, 6), "w"], {}, r"x has shape \(1, 4, 6\), expected \[1,C,H,W\]"),
        ("conv2d", [(1, 5, 6, 6), "w"], {}, "does not fit"),
        ("conv2d", [(1, 4, 2, 2), "w"], {}, "larger than the padded input"),
        ("conv2d", [(1, 4, 6, 6), "w"], {"activation": "swish"}, "activation is 'swish'"),
        ("conv2d", [(1, 4, 6, 6), (8, 4, 3, 3)], {}, "needs a constant 'weight'"),
        ("conv2d", [(1, 4, 6, 6)], {}, "needs its input 'weight'"),
        ("conv2d", [(1, 4, 6, 6), "w"], {"strides": [1]}, "strides has 2 items"),
        ("conv2d", [(1, 4, 6, 6), "w"], {"stride": 1}, "no attribute 'stride'"),
        ("max_pool2d", [(1, 4, 6, 6)], {"kernel": [2, 2], "pads": [2, 0, 0, 0]}, "smaller than"),
        ("max_pool2d", [(1, 4, 6, 6)], {}, "needs the attribute 'kernel'"),
        ("add", [(1, 4, 6, 6), (1, 1, 6, 6)], {}, "expected activations of one shape"),
        ("softmax", [(1, 4, 6, 6)], {}, "expected rank 1 to 3"),
        ("concat", [(1, 4, 6, 6), (1, 4, 6, 6)], {"axis": 2}, "axis 2"),
        ("slice", [(1, 4, 6)], {"axis": 1, "start": 2, "end": 5}, "2 to 5 of an axis of 4"),
        ("reduce_mean", [(1, 4, 6, 6)], {"axes": [2, 3]}, "expected axis 1"),
        ("attention", [(1, 5, 6), (1, 5, 6), (1, 5, 6)], {"scale": 1.0, "heads": 4}, "4 heads"),
        ("attention", [(2, 5, 6), (1, 5, 6), (1, 5, 6)], {"scale": 1.0}, r"expected \[W,tq,d\]"),
        ("gms_map", [(1, 3, 6, 6), (1, 3, 6, 5)], {"c": 0.1}, "b has shape"),
        ("gms_map", [(1, 3, 6, 6), (1, 3, 6, 6)], {"c": 0.0}, "c is 0.0, expected a positive"),
        ("calibrate_map", [(1, 8, 4, 3), "w"], {"mode": "square"}, "x has shape"),
        ("depth_to_space", [(1, 8, 6, 6)], {"block": 3}, "8 channels do not divide"),
        ("window_gather", [(1, 8, 6), "w"], {}, "index holds float32, expected int32"),
        ("nonsense", [(1, 4)], {}, "unknown op 'nonsense'"),
    ],
)
def test_the_table_refuses_by_name(op, shapes, attrs, message):
    graph = Graph()
    w = graph.constant("w", np.ones((8, 4, 3, 3)))
    inputs = [w if each == "w" else graph.input("x", each) for each in shapes]
    with pytest.raises(CompileError, match=message):
        graph.add(op, inputs, attrs)


def test_an_index_is_made_of_integers_within_the_rows():
    graph = Graph()
    x = graph.input("x", (1, 5, 3))
    (y,) = graph.add("window_gather", [x, graph.index("i", [[0, 4], [4, 1], [2, 2]])])
    assert y.shape == (3, 2, 3)
    for rows, message in (([[0, 5]], "holds 0 to 5, expected 0 to 4"), ([[-1, 2]], "holds -1")):
        with pytest.raises(CompileError, match=message):
            graph.add("window_gather", [x, graph.index("i", rows)])
    with pytest.raises(CompileError, match="linear: weight holds int32, expected float32"):
        graph.add("linear", [x, graph.index("i", [[0, 1, 2]])])
    for wrong in ([[0.5]], [[1 << 31]]):
        with pytest.raises(CompileError, match="expected integers of up to 32 bits"):
            graph.index("i", wrong)


def test_every_op_has_a_reference():
    from adfast.compiler import reference

    assert set(ops.table) == set(reference._ops)
