"""Each pass on a small graph: what it prints, on and off, and that the answers stay."""

import numpy as np
import pytest
from small_models import (
    assert_same,
    feeds_for,
    floats,
    model,
    positive,
    run_onnx,
    student_teacher,
)

from adfast.compiler import passes, reference
from adfast.compiler.graph import Graph
from adfast.compiler.importer import import_onnx
from adfast.compiler.passes import run_passes
from adfast.errors import CompileError


def inputs_of(graph):
    return {v.name: floats(*v.shape, seed=i) for i, v in enumerate(graph.inputs)}


def ops_of(graph):
    return [node.op for node in graph.nodes]


def apply(name, graph, *more):
    """Run single passes on a copy; the answers must not change."""
    changed = graph.copy()
    for each in (name, *more):
        (run,) = {p.run for p in passes.table if p.name == each}
        run(changed)
        changed.check()
    frame = np.random.default_rng(5).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    values = inputs_of(graph)
    before = reference.run(graph, values, frame=frame)
    assert_same(reference.run(changed, values, frame=frame), before, 1e-6)
    return changed


def lines(graph):
    return str(graph).splitlines()[1:]


def conv_graph(*, width=4, bias=True):
    graph = Graph("g")
    x = graph.input("x", (1, 3, 5, 5))
    w = graph.constant("conv.weight", floats(width, 3, 3, 3))
    b = graph.constant("conv.bias", floats(width, seed=1)) if bias else None
    (y,) = graph.add("conv2d", [x, w, b], {"pads": [1, 1, 1, 1]}, name="conv")
    return graph, x, y


def batch_norm(graph, x, channels, name="bn"):
    parts = [
        graph.constant(f"{name}.{part}", make(channels, seed=i + 20))
        for i, (part, make) in enumerate(
            [("gamma", positive), ("beta", floats), ("mean", floats), ("variance", positive)]
        )
    ]
    return graph.add("batch_norm", [x, *parts], name=name)[0]


def test_fold_constants():
    graph = Graph("g")
    x = graph.input("x", (1, 2, 3))
    a = graph.constant("a", floats(2, 3))
    (b,) = graph.add("transpose", [a], {"order": [1, 0]}, name="turned")
    (c,) = graph.add("softmax", [b], name="weights")
    (d,) = graph.add("reshape", [c], {"shape": [1, 2, 3]}, name="tokens")
    (e,) = graph.add("relu", [x], name="act")
    (y,) = graph.add("mul", [e, graph.add("abs", [d], name="positive")[0]], name="product")
    graph.output("y", y)
    assert lines(apply("fold_constants", graph))[1:3] == [
        "  %act = relu(%x) -> [1,2,3]",
        "  %product = mul(%act, positive.constant:const[1,2,3]) -> [1,2,3]",
    ]


def test_fold_constants_puts_them_second_and_keeps_what_has_no_place_for_them():
    graph = Graph("g")
    x = graph.input("x", (1, 3))
    a, b = (graph.input(name, (1, 3)) for name in "ab")
    (sum_,) = graph.add("add", [a, x], name="sum")
    (difference,) = graph.add("sub", [b, sum_], name="difference")
    graph.output("y", difference)
    for value in (a, b):
        constant = graph.constant(f"{value.name}.0", floats(1, 3))
        (made,) = graph.add("neg", [constant], before=graph.nodes[0])
        graph.replace(value, made)
    graph.inputs = [x]
    assert lines(apply("fold_constants", graph))[1:] == [
        "  %neg.2 = neg(b.0:const[1,3]) -> [1,3]",
        "  %sum = add(%x, neg.constant:const[1,3]) -> [1,3]",
        "  %difference = sub(%neg.2, %sum) -> [1,3]",
        "  output y = %difference",
    ]


def test_fold_constants_keeps_what_would_blow_up_the_plan():
    graph = Graph("g")
    x = graph.input("x", (5, 256, 1032))
    table = graph.constant("positions", floats(1, 9, 1032))
    for name, windows in (("few", 3), ("many", 5)):
        rows = np.arange(windows * 256).reshape(windows, 256) % 9
        (y,) = graph.add("window_gather", [table, graph.index(f"{name}.rows", rows)], name=name)
        graph.output(name, graph.add("neg", [y], name=f"{name}.neg")[0])
    graph.output("y", graph.add("add", [x, y], name="sum")[0])
    assert lines(apply("fold_constants", graph))[1:4] == [
        "  %few.neg = neg(few.constant:const[3,256,1032]) -> [3,256,1032]",
        "  %many = window_gather(positions:const[1,9,1032], many.rows:const[5,256])"
        " -> [5,256,1032]",
        "  %many.neg = neg(%many) -> [5,256,1032]",
    ]


def test_remove_identities():
    graph = Graph("g")
    x = graph.input("x", (1, 4, 6))
    (y,) = graph.add("identity", [x])
    (y,) = graph.add("transpose", [y], {"order": [0, 2, 1]}, name="t1")
    (y,) = graph.add("transpose", [y], {"order": [0, 2, 1]}, name="t2")
    (y,) = graph.add("reshape", [y], {"shape": [24]}, name="r1")
    (y,) = graph.add("reshape", [y], {"shape": [1, 4, 6]}, name="r2")
    (y,) = graph.add("mul", [y, graph.constant("one", 1.0)])
    (y,) = graph.add("add", [y, graph.constant("zero", np.zeros(6))])
    (y,) = graph.add("slice", [y], {"axis": 1, "start": 0, "end": 4})
    (y,) = graph.add("concat", [y], {"axis": 1})
    (y,) = graph.add("relu", [y], name="act")
    graph.output("y", y)
    assert lines(apply("remove_identities", graph, "remove_dead")) == [
        "  input %x [1,4,6]",
        "  %act = relu(%x) -> [1,4,6]",
        "  output y = %act",
    ]


def test_share_common_merges_equal_nodes_even_with_equal_constants_of_two_names():
    graph = Graph("g")
    x = graph.input("x", (1, 4, 6))
    sums = []
    for name in "ab":
        (y,) = graph.add("mul", [x, graph.constant(name, 2.0)], name=f"mul_{name}")
        (y,) = graph.add("relu", [y], name=f"relu_{name}")
        sums.append(y)
    (z,) = graph.add("mul", [x, graph.constant("c", 3.0)], name="mul_c")
    graph.output("y", graph.add("add", sums)[0])
    graph.output("z", z)
    assert ops_of(apply("share_common", graph)) == ["mul", "relu", "mul", "add"]


@pytest.mark.parametrize("where", ["last", "inside"])
def test_recognise_activations(where):
    graph = Graph("g")
    x = graph.input("x", (1, 4, 6))
    half = graph.constant("half", 0.5)
    one = graph.constant("one", 1.0)
    root = graph.constant("root", np.sqrt(2.0))
    (scaled,) = graph.add("div", [x, root])
    (erf,) = graph.add("erf", [scaled])
    (plus,) = graph.add("add", [erf, one])
    if where == "last":
        (gelu,) = graph.add("mul", [x, plus])
        (gelu,) = graph.add("mul", [gelu, half], name="gelu")
    else:
        (halved,) = graph.add("mul", [x, half])
        (gelu,) = graph.add("mul", [halved, plus], name="gelu")
    (gate,) = graph.add("sigmoid", [x])
    (silu,) = graph.add("mul", [gate, x], name="silu")
    graph.output("gelu", gelu)
    graph.output("silu", silu)
    assert lines(apply("recognise_activations", graph, "remove_dead"))[1:3] == [
        "  %gelu = gelu(%x) -> [1,4,6]",
        "  %silu = silu(%x) -> [1,4,6]",
    ]


def frame_graph():
    graph = Graph("g")
    attrs = {"resize": [6, 8], "crop": [5, 6], "scale": [1 / 255] * 3, "bias": [0, 0.1, 0]}
    (x,) = graph.add("frame", [], attrs, name="frame")
    (y,) = graph.add("sub", [x, graph.constant("mean", floats(1, 3, 1, 1))])
    (y,) = graph.add("div", [y, graph.constant("std", positive(1, 3, 1, 1))])
    (y,) = graph.add("mul", [y, graph.constant("two", 2.0)])
    y = batch_norm(graph, y, 3)
    return graph, x, y


def test_fold_input_normalization():
    graph, _, y = frame_graph()
    w = graph.constant("w", floats(4, 3, 3, 3))
    # Padding must stay zero of the normalised image: nothing behind the convolution moves.
    (y,) = graph.add("conv2d", [y, w], {"pads": [1, 1, 1, 1]})
    (y,) = graph.add("add", [y, graph.constant("after", 1.0)])
    graph.output("y", y)
    assert ops_of(apply("fold_input_normalization", graph)) == ["frame", "conv2d", "add"]


def test_fold_input_normalization_leaves_a_frame_that_others_read():
    graph, x, y = frame_graph()
    graph.output("y", y)
    graph.output("x", x)
    assert ops_of(apply("fold_input_normalization", graph))[:2] == ["frame", "sub"]


@pytest.mark.parametrize("bias", [True, False])
def test_fold_batch_norm(bias):
    graph, _, y = conv_graph(bias=bias)
    graph.output("y", batch_norm(graph, y, 4))
    assert lines(apply("fold_batch_norm", graph))[1:] == [
        "  %conv = conv2d(%x, conv.weight.folded:const[4,3,3,3], conv.bias.folded:const[4]) "
        "{pads=[1,1,1,1]} -> [1,4,5,5]",
        "  output y = %conv",
    ]


def test_a_transposed_convolution_takes_norm_residual_and_activation():
    proto = model(
        """g (float[N,4,6,5] x) => (float[N,3,6,5] y) {
            c = ConvTranspose<pads=[1,1,1,1]>(x, w, b)
            n = BatchNormalization(c, gamma, beta, mean, variance)
            s = Conv(x, w1)
            a = Add(n, s)
            y = Relu(a)
        }""",
        w=floats(4, 3, 3, 3),
        b=floats(3, seed=1),
        w1=floats(3, 4, 1, 1, seed=2),
        gamma=positive(3),
        beta=floats(3, seed=3),
        mean=floats(3, seed=4),
        variance=positive(3, seed=5),
    )
    graph = run_passes(import_onnx(proto))
    assert ops_of(graph) == ["conv2d", "conv2d"]
    assert graph.nodes[-1].attrs["activation"] == "relu"
    assert sum(node.inputs[3] is not None for node in graph.nodes) == 1
    feeds = feeds_for(proto)
    expected = run_onnx(proto, feeds)
    assert_same(reference.run(graph, feeds), expected)


def test_fold_batch_norm_leaves_a_convolution_that_others_read():
    graph, _, y = conv_graph()
    graph.output("y", batch_norm(graph, y, 4))
    graph.output("z", y)
    assert ops_of(apply("fold_batch_norm", graph)) == ["conv2d", "batch_norm"]
    assert ops_of(apply("lower_batch_norm", graph)) == ["conv2d", "mul", "add"]


def test_batch_norm_without_folding_becomes_a_product_and_a_sum_that_fold():
    graph, _, y = conv_graph()
    graph.output("y", batch_norm(graph, y, 4))
    assert ops_of(run_passes(graph, ["fold_batch_norm"])) == ["conv2d"]
    off = run_passes(graph, ["fold_batch_norm", "fold_scale_and_bias"])
    assert ops_of(off) == ["conv2d", "mul", "add"]


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div"])
@pytest.mark.parametrize("bias", [True, False])
def test_fold_scale_and_bias(op, bias):
    graph, _, y = conv_graph(bias=bias)
    (y,) = graph.add(op, [y, graph.constant("c", positive(1, 4, 1, 1))])
    graph.output("y", y)
    w = graph.constant("linear.weight", floats(7, 6))
    (z,) = graph.add("linear", [graph.input("z", (1, 3, 6)), w], name="linear")
    (z,) = graph.add(op, [z, graph.constant("d", positive(7, seed=3))])
    (z,) = graph.add(op, [z, graph.constant("e", 3.0)])
    graph.output("z", z)
    assert ops_of(apply("fold_scale_and_bias", graph)) == ["conv2d", "linear"]


def test_fold_scale_and_bias_stops_at_an_activation_and_at_whole_constants():
    graph = Graph("g")
    w = graph.constant("w", floats(7, 6))
    (y,) = graph.add("linear", [graph.input("x", (1, 3, 6)), w])
    graph.output("y", graph.add("add", [y, graph.constant("whole", floats(1, 3, 7))])[0])
    assert ops_of(apply("fold_scale_and_bias", graph)) == ["linear", "add"]
    graph, _, y = conv_graph()
    y.producer.attrs["activation"] = "relu"
    graph.output("y", graph.add("mul", [y, graph.constant("c", 2.0)])[0])
    assert ops_of(apply("fold_scale_and_bias", graph)) == ["conv2d", "mul"]


def projector_graph(*, bias=True, swapped=False):
    graph = Graph("g")
    f = graph.input("agn", (1, 6, 4, 5))
    t = graph.input("trans", (1, 6, 4, 5))
    tokens = graph.input("tokens", (1, 3, 5))
    w = graph.constant("query.weight", floats(7, 6, seed=4))
    b = graph.constant("query.bias", floats(7, seed=5) * bias)
    (key,) = graph.add("linear", [tokens, graph.constant("key.weight", floats(7, 5))], name="key")
    (val,) = graph.add("linear", [tokens, graph.constant("val.weight", floats(6, 5))], name="val")
    attrs = {"scale": 0.3}
    (y,) = graph.add("query_projector_attention", [f, t, w, b, key, val], attrs, name="mapper")
    scores = graph.add("score_map", [y, f] if swapped else [f, y], name="score")
    for role, value in zip(("map", "mse", "cos"), scores, strict=True):
        graph.output(role, value)
    return graph, y


def test_reassociate_projector():
    graph, _ = projector_graph()
    assert lines(apply("reassociate_projector", graph))[3:8] == [
        "  %key = linear(%tokens, key.weight:const[7,5]) -> [1,3,7]",
        "  %val = linear(%tokens, val.weight:const[6,5]) -> [1,3,6]",
        "  %mapper.key = linear(%key, query.weight.transposed:const[6,7]) -> [1,3,6]",
        "  %mapper.key_bias = linear(%key, query.bias.row:const[1,7]) -> [1,3,1]",
        "  %mapper = projector_attention(%agn, %trans, %mapper.key, %mapper.key_bias, %val) "
        "{scale=0.3} -> [1,6,4,5]",
    ]
    without, _ = projector_graph(bias=False)
    assert ops_of(apply("reassociate_projector", without)).count("linear") == 3


def test_merge_linears():
    graph, _ = projector_graph()
    merged = apply("reassociate_projector", graph, "merge_linears")
    linears = [node for node in merged.nodes if node.op == "linear"]
    assert [node.inputs[1].shape for node in linears] == [(6, 5), (6, 5), (1, 5)]


def test_merge_linears_only_where_it_saves_work():
    def bottleneck(width):
        graph = Graph("g")
        x = graph.input("x", (1, 3, 8))
        w1, b1 = graph.constant("w1", floats(width, 8)), graph.constant("b1", floats(width))
        w2, b2 = graph.constant("w2", floats(8, width)), graph.constant("b2", floats(8))
        (y,) = graph.add("linear", [x, w1, b1])
        (y,) = graph.add("linear", [y, w2, b2], {"activation": "relu"})
        graph.output("y", y)
        return graph

    assert ops_of(apply("merge_linears", bottleneck(8))) == ["linear"]
    assert ops_of(apply("merge_linears", bottleneck(2))) == ["linear", "linear"]


@pytest.mark.parametrize("swapped", [False, True])
def test_fuse_projector_score(swapped):
    graph, _ = projector_graph(swapped=swapped)
    fused = apply("reassociate_projector", graph, "fuse_projector_score")
    assert ops_of(fused)[-1] == "projector_score_map" and "score_map" not in ops_of(fused)


def test_fuse_projector_score_leaves_a_result_that_others_read():
    graph, y = projector_graph()
    graph.output("features", y)
    assert ops_of(apply("reassociate_projector", graph, "fuse_projector_score"))[-1] == "score_map"


def test_drop_token_bias():
    graph = Graph("g")
    x = graph.input("x", (1, 6, 4, 5))
    w, b = graph.constant("w", floats(3, 6)), graph.constant("b", floats(3))
    (y,) = graph.add("token_attention", [x, w, b], {"scale": 0.5}, name="tokens")
    graph.output("y", y)
    assert lines(apply("drop_token_bias", graph))[1] == (
        "  %tokens = token_attention(%x, w:const[3,6]) {scale=0.5} -> [1,3,6]"
    )


def test_fuse_residual_and_activation():
    graph, _, y = conv_graph()
    other = graph.input("other", (1, 4, 5, 5))
    (y,) = graph.add("add", [other, y], name="sum")
    (y,) = graph.add("relu", [y], name="act")
    graph.output("y", y)
    assert lines(apply("fuse_residual", graph, "fuse_activation"))[2:] == [
        "  %conv = conv2d(%x, conv.weight:const[4,3,3,3], conv.bias:const[4], %other) "
        "{pads=[1,1,1,1], activation=relu} -> [1,4,5,5]",
        "  output y = %conv",
    ]
    assert ops_of(run_passes(graph, ["fuse_activation"])) == ["conv2d", "relu"]
    assert ops_of(run_passes(graph, ["fuse_residual"])) == ["conv2d", "add", "relu"]


def test_fuse_residual_takes_the_later_of_two_convolutions():
    graph, x, y = conv_graph()
    w = graph.constant("short.weight", floats(4, 3, 1, 1))
    (short,) = graph.add("conv2d", [x, w], name="short")
    (z,) = graph.add("add", [short, y])
    graph.output("z", z)
    assert [repr(node).split(" ")[0] for node in apply("fuse_residual", graph).nodes] == [
        "%conv",
        "%short",
    ]


def test_fuse_residual_leaves_what_an_activation_or_a_reader_separates():
    graph, _, y = conv_graph()
    (act,) = graph.add("relu", [y])
    graph.output("y", graph.add("add", [act, graph.input("other", (1, 4, 5, 5))])[0])
    fused = apply("fuse_residual", graph, "fuse_activation", "fuse_residual")
    assert ops_of(fused) == ["conv2d", "add"]
    graph, _, y = conv_graph()
    graph.output("y", graph.add("add", [y, y])[0])
    assert ops_of(apply("fuse_residual", graph)) == ["conv2d", "add"]


def test_fuse_residual_of_layer_norm_and_linear():
    graph = Graph("g")
    x = graph.input("x", (1, 3, 6))
    gamma, beta = graph.constant("gamma", positive(6)), graph.constant("beta", floats(6))
    (y,) = graph.add("layer_norm", [x, gamma, beta], name="norm")
    (y,) = graph.add("add", [x, y])
    (z,) = graph.add("linear", [y, graph.constant("w", floats(6, 6))], name="mlp")
    (z,) = graph.add("add", [z, y])
    graph.output("z", z)
    assert [
        repr(n).split(" {")[0].split(" ->")[0] for n in apply("fuse_residual", graph).nodes
    ] == [
        "%norm = layer_norm(%x, gamma:const[6], beta:const[6], %x)",
        "%mlp = linear(%norm, w:const[6,6], -, %norm)",
    ]


def test_remove_dead():
    graph, _, y = conv_graph()
    graph.add("relu", [graph.add("neg", [y])[0]])
    graph.output("y", y)
    assert ops_of(apply("remove_dead", graph)) == ["conv2d"]


OPTIONAL = sorted({each.name for each in passes.table if not each.required})


@pytest.mark.parametrize("off", ["", *OPTIONAL])
def test_any_pass_can_be_off_and_the_answers_stay(off):
    graph = import_onnx(student_teacher())
    values = inputs_of(graph)
    made = run_passes(graph, [off] if off else [])
    assert_same(reference.run(made, values), reference.run(graph, values), 1e-5)
    assert str(graph) == str(import_onnx(student_teacher())), "the given graph was changed"
    if not off:
        fused = [n for n in made.nodes if n.op == "conv2d" and n.attrs["activation"] == "relu"]
        assert len(fused) == 6 and "batch_norm" not in ops_of(made)


def test_all_passes_off_at_once():
    graph = import_onnx(student_teacher())
    values = inputs_of(graph)
    made = run_passes(graph, OPTIONAL)
    made.check(engine_only=True)
    assert_same(reference.run(made, values), reference.run(graph, values), 1e-6)


def test_names_of_passes_are_checked():
    graph, _, y = conv_graph()
    graph.output("y", y)
    with pytest.raises(
        CompileError, match="pass 'fuse' does not exist; those that can: drop_token"
    ):
        run_passes(graph, ["fuse"])
    with pytest.raises(CompileError, match="'lower_batch_norm' cannot be switched off"):
        run_passes(graph, ["lower_batch_norm"])


def test_a_broken_graph_is_blamed_on_its_pass(monkeypatch):
    def fuse_badly(graph):
        graph.nodes[0].attrs["pads"] = [0, 0, 0, 0]
        return 1

    monkeypatch.setattr(passes, "table", (*passes.table, passes.Pass(fuse_badly)))
    graph, _, y = conv_graph()
    graph.output("y", y)
    with pytest.raises(CompileError, match="pass fuse_badly broke the graph: conv: conv2d has"):
        run_passes(graph)


def test_the_log_names_what_changed():
    graph, _, y = conv_graph()
    graph.output("y", batch_norm(graph, y, 4))
    log = []
    run_passes(graph, log=log.append)
    assert log == ["fold_batch_norm: 1"]


def test_recognise_tokens_whatever_the_way_there_and_back():
    graph = Graph("g")
    x = graph.input("x", (1, 6, 2, 3))
    (y,) = graph.add("reshape", [x], {"shape": [1, 6, 6]}, name="flat")
    (y,) = graph.add("transpose", [y], {"order": [0, 2, 1]}, name="turned")
    (y,) = graph.add("softmax", [y], name="soft")
    (y,) = graph.add("transpose", [y], {"order": [0, 2, 1]}, name="back")
    (y,) = graph.add("reshape", [y], {"shape": [1, 6, 2, 3]}, name="map")
    graph.output("y", y)
    # [H*W,B,C], as nn.Transformer has it.
    (z,) = graph.add("transpose", [x], {"order": [2, 3, 0, 1]}, name="hwbc")
    (z,) = graph.add("reshape", [z], {"shape": [6, 1, 6]}, name="sequence")
    graph.output("z", graph.add("softmax", [z], name="other")[0])
    assert lines(apply("recognise_tokens", graph)) == [
        "  input %x [1,6,2,3]",
        "  %turned = tokens(%x) -> [1,6,6]",
        "  %soft = softmax(%turned) -> [1,6,6]",
        "  %map = feature_map(%soft) {height=2, width=3} -> [1,6,2,3]",
        "  %sequence.tokens = tokens(%x) -> [1,6,6]",
        "  %sequence = view(%sequence.tokens) {shape=[6,1,6]} -> [6,1,6]",
        "  %other = softmax(%sequence) -> [6,1,6]",
        "  output y = %map",
        "  output z = %other",
    ]


def test_recognise_tokens_leaves_what_moves_elements_and_drops_what_does_not():
    graph = Graph("g")
    x = graph.input("x", (1, 4, 2, 3))
    (y,) = graph.add("reshape", [x], {"shape": [1, 6, 4]}, name="scrambled")
    graph.output("y", graph.add("softmax", [y])[0])
    t = graph.input("t", (1, 4, 6))
    (z,) = graph.add("transpose", [t], {"order": [0, 2, 1]})
    (z,) = graph.add("reshape", [z], {"shape": [6, 4]})
    (z,) = graph.add("transpose", [z], {"order": [1, 0]})
    (z,) = graph.add("reshape", [z], {"shape": [1, 4, 6]})
    graph.output("z", graph.add("softmax", [z], name="same")[0])
    assert lines(apply("recognise_tokens", graph))[2:] == [
        "  %scrambled = reshape(%x) {shape=[1,6,4]} -> [1,6,4]",
        "  %softmax = softmax(%scrambled) -> [1,6,4]",
        "  %same = softmax(%t) -> [1,4,6]",
        "  output y = %softmax",
        "  output z = %same",
    ]


def test_fold_pad():
    graph = Graph("g")
    x = graph.input("x", (1, 3, 6, 6))
    (padded,) = graph.add("pad", [x], {"pads": [0, 0, 1, 1]}, name="same")
    w = graph.constant("w", floats(4, 3, 3, 3))
    (y,) = graph.add("conv2d", [padded, w], {"strides": [2, 2]}, name="conv")
    (z,) = graph.add(
        "avg_pool2d", [padded], {"kernel": [3, 3], "pads": [0] * 4, "strides": [2, 2]}, name="mean"
    )
    graph.output("y", y)
    graph.output("z", z)
    assert lines(apply("fold_pad", graph))[1:3] == [
        "  %conv = conv2d(%x, w:const[4,3,3,3]) {strides=[2,2], pads=[0,0,1,1]} -> [1,4,3,3]",
        "  %mean = avg_pool2d(%x) {kernel=[3,3], strides=[2,2], pads=[0,0,1,1], "
        "count_include_pad=1} -> [1,3,3,3]",
    ]


def test_fold_pad_stays_before_a_maximum_which_zeros_may_win():
    graph = Graph("g")
    x = graph.input("x", (1, 3, 6, 6))
    (y,) = graph.add("pad", [x], {"pads": [0, 0, 1, 1]})
    graph.output("y", graph.add("max_pool2d", [y], {"kernel": [3, 3]})[0])
    assert ops_of(apply("fold_pad", graph)) == ["pad", "max_pool2d"]


def test_silu_written_out_goes_into_its_convolution():
    graph, x, y = conv_graph()
    (gate,) = graph.add("sigmoid", [y], name="gate")
    (y,) = graph.add("mul", [y, gate], name="product")
    graph.output("y", y)
    changed = run_passes(graph)
    assert ops_of(changed) == ["conv2d"]
    assert changed.nodes[0].attrs["activation"] == "silu"


def test_attention_on_constants_is_computed_now():
    """A decoder's first self-attention sees its learned query only."""
    graph = Graph("g")
    x = graph.input("x", (1, 5, 6))
    query = graph.constant("query", floats(1, 4, 6))
    (own,) = graph.add("attention", [query] * 3, {"heads": 2, "scale": 0.5}, name="own")
    (sum_,) = graph.add("add", [own, query], name="sum")
    gamma, beta = graph.constant("gamma", positive(6)), graph.constant("beta", floats(6))
    (norm,) = graph.add("layer_norm", [sum_, gamma, beta], name="norm")
    (y,) = graph.add("attention", [norm, x, x], {"heads": 2, "scale": 0.5}, name="cross")
    (y,) = graph.add("add", [norm, y], name="added")
    graph.output("y", y)
    assert lines(apply("fold_constants", graph))[1:] == [
        "  %cross = attention(norm.constant:const[1,4,6], %x, %x) {heads=2, scale=0.5} -> [1,4,6]",
        "  %added = add(%cross, norm.constant:const[1,4,6]) -> [1,4,6]",
        "  output y = %added",
    ]
