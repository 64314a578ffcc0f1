"""Windows of patches painted from their neighbours, as InTra does, in a plan of a few kilobytes."""

from __future__ import annotations

import numpy as np
import pytest
from test_isa import forced

import adfast
from adfast.compiler import reference
from adfast.compiler.graph import Graph
from adfast.compiler.passes import run_passes
from adfast.compiler.writer import write_test_plan

FRAME = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
SIDE, WIDTH, HEADS = 4, 16, 2  # of a patch; of a token
GRID = (9, 8)


RANDOM = np.random.default_rng(1)


def random(*shape, scale=1.0):
    return scale * RANDOM.standard_normal(shape)


def windows_graph() -> Graph:
    """One block over 3x3 windows, every one of which hides its middle; 72 windows."""
    graph = Graph("windows")

    def op(name, *inputs, **attrs):
        return graph.add(name, list(inputs), attrs)[0]

    def constant(*shape, scale):
        return graph.constant("c", random(*shape, scale=scale))

    def linear(x, width, residual=None, **attrs):
        weight = constant(width, x.shape[-1], scale=x.shape[-1] ** -0.5)
        return op("linear", x, weight, constant(width, scale=0.1), residual, **attrs)

    def norm(x):
        return op("layer_norm", x, constant(WIDTH, scale=1), constant(WIDTH, scale=1))

    rows, columns = GRID
    crop = [rows * SIDE, columns * SIDE]
    frame = op("frame", resize=[40, 41], crop=crop, scale=[1 / 255] * 3, bias=[0.0] * 3)
    patches = constant(WIDTH, 3, SIDE, SIDE, scale=0.2)
    seen = op("tokens", op("conv2d", frame, patches, strides=[SIDE, SIDE]))
    seen = op("add", seen, constant(1, rows * columns, WIDTH, scale=0.5))
    hidden = constant(1, rows * columns, WIDTH, scale=0.5)
    tokens = op("concat", seen, hidden, axis=1)
    index = np.arange(rows * columns).reshape(rows, columns)
    index = np.stack([np.roll(index, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)], -1)
    index[..., 4] += rows * columns
    x = op("window_gather", tokens, graph.index("index", index.reshape(-1, 9)))
    y = norm(x)
    q, k = (linear(linear(y, 2 * WIDTH, activation="gelu"), WIDTH // 2) for _ in range(2))
    y = op("attention", q, k, linear(y, WIDTH), heads=HEADS, scale=0.5)
    x = linear(y, WIDTH, x)
    x = linear(linear(norm(x), 4 * WIDTH, activation="gelu"), WIDTH, x)
    pixels = linear(op("reduce_mean", x, axes=[1], keepdims=0), 3 * SIDE**2)
    pixels = op("view", pixels, shape=[1, rows * columns, 3 * SIDE**2])
    cells = op("feature_map", pixels, height=rows, width=columns)
    painted = op("depth_to_space", cells, block=SIDE)
    small = [op("avg_pool2d", a, kernel=[2, 2], strides=[2, 2]) for a in (frame, painted)]
    score_map = op("gms_map", *small, c=0.0026)
    score_map = op("resize_bilinear", score_map, height=crop[0], width=crop[1])
    score_map = op("calibrate_map", score_map, constant(1, 1, *crop, scale=0.1), mode="square")
    graph.output("map", score_map)
    graph.output("score", op("reduce_max", score_map, axes=[1, 2, 3], keepdims=0))
    return graph


@pytest.fixture(scope="module")
def graph() -> Graph:
    return run_passes(windows_graph())


@pytest.fixture(scope="module")
def expected(graph) -> np.ndarray:
    return reference.run(graph, frame=FRAME)["map"][0, 0]


@pytest.fixture(scope="module")
def plan(graph, tmp_path_factory):
    path = tmp_path_factory.mktemp("windows") / "windows.plan"
    write_test_plan(path, graph)
    return path


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512", "avx512_bf16", "avx512_amx"])
def test_every_instruction_set_computes_the_reference(plan, expected, isa):
    got = forced(plan, isa, "f32")[-1]
    assert np.abs(got - expected).max() <= 1e-5 * expected.max()


def test_a_chain_s_frames_side_by_side_give_the_same_bits(plan):
    engine = adfast.load(plan, threads=2, frames_at_once=2, precision="f32")
    assert [engine.info[key] for key in ("threads", "lanes", "frames_at_once")] == [2, 1, 2]
    expected = adfast.load(plan, threads=2, precision="f32").predict(FRAME).map
    with engine.stream(capacity=5) as stream:
        for number in range(5):
            stream.submit(FRAME, id=number)
        results = [stream.poll(timeout=60) for _ in range(5)]
    assert [got.id for got in results] == list(range(5))
    assert all(np.array_equal(got.result.map, expected) for got in results)


def test_threads_do_not_change_the_bits(plan):
    maps = [adfast.load(plan, threads=n, precision="f32").predict(FRAME).map for n in (1, 2, 3, 5)]
    assert all(np.array_equal(maps[0], other) for other in maps[1:])


def test_bf16_stays_near(plan, expected):
    engine = adfast.load(plan, precision="bf16")
    got = engine.predict(FRAME).network_map
    assert 0 < np.abs(got - expected).max() <= 0.05 * expected.max()


def test_a_difference_of_images_takes_the_image_unrounded(tmp_path):
    """In bf16 plans too: only the convolution beside it gets the image in bf16."""
    graph = Graph("images")
    attrs = {"resize": [24, 20], "crop": [24, 20], "scale": [1 / 255] * 3, "bias": [0.0] * 3}
    (frame,) = graph.add("frame", [], attrs)
    (small,) = graph.add("avg_pool2d", [frame], {"kernel": [2, 2], "strides": [2, 2]})
    (rough,) = graph.add("resize_bilinear", [small], {"height": 24, "width": 20})
    (score_map,) = graph.add("gms_map", [frame, rough], {"c": 0.0026})
    weight = graph.constant("weight", random(1, 3, 1, 1))
    graph.output("features", graph.add("conv2d", [frame, weight])[0])
    graph.output("map", score_map)
    top = {"axes": [1, 2, 3], "keepdims": 0}
    graph.output("score", graph.add("reduce_max", [score_map], top)[0])
    path = tmp_path / "images.plan"
    write_test_plan(path, graph)
    narrow, wide = (adfast.load(path, precision=precision) for precision in ("bf16", "f32"))
    assert narrow.info["precision"] == "bf16"
    assert np.array_equal(narrow.predict(FRAME).map, wide.predict(FRAME).map)


def test_big_rows_are_shared_among_threads_without_changing_the_bits(tmp_path):
    """Every op that divides its rows, at a size where it does."""
    graph = Graph("big")
    attrs = {"resize": [48, 48], "crop": [48, 48], "scale": [1 / 255] * 3, "bias": [0.0] * 3}
    (frame,) = graph.add("frame", [], attrs)
    (x,) = graph.add("conv2d", [frame, graph.constant("w", random(96, 3, 1, 1))])
    (x,) = graph.add("tokens", [x])
    rows = np.random.default_rng(3).integers(0, 48 * 48, (257, 49))
    (x,) = graph.add("window_gather", [x, graph.index("rows", rows)])
    ones = [graph.constant(name, random(96)) for name in ("gamma", "beta")]
    (y,) = graph.add("layer_norm", [x, *ones, x])
    (y,) = graph.add("add", [y, x])
    (y,) = graph.add("mul", [y, graph.constant("spread", random(1, 49, 96))])
    (y,) = graph.add("attention", [y, x, y], {"heads": 3, "scale": 0.1})
    (y,) = graph.add("silu", [y])
    (y,) = graph.add("reduce_mean", [y], {"axes": [1], "keepdims": 0})
    (y,) = graph.add("view", [y], {"shape": [1, 257, 96]})
    (y,) = graph.add("feature_map", [y], {"height": 257, "width": 1})
    (y,) = graph.add("reduce_sum", [y], {"axes": [1]})
    graph.output("map", y)
    top = {"axes": [1, 2, 3], "keepdims": 0}
    graph.output("score", graph.add("reduce_max", [y], top)[0])
    path = tmp_path / "big.plan"
    write_test_plan(path, graph)
    one, *others = (
        adfast.load(path, threads=n, precision="f32").predict(FRAME).network_map for n in (1, 3, 4)
    )
    assert all(np.array_equal(one, other) for other in others)
    want = reference.run(graph, frame=FRAME)["map"][0, 0]
    assert np.abs(one - want).max() <= 2e-5 * np.abs(want).max()
