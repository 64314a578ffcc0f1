"""The op `frame`: uint8 images of any size, layout and stride, resized, cropped and normalised."""

from __future__ import annotations

import numpy as np
import pytest

from adfast import _core
from adfast.compiler import reference
from adfast.compiler.graph import Graph
from adfast.compiler.writer import write_test_plan

SCALE, BIAS = [1 / 58.4, 1 / 57.1, 1 / 57.4], [-2.12, -2.04, -1.80]


def frame_graph(channel: int, resize=(24, 28), crop=(19, 21), antialias: int = 1) -> Graph:
    """One normalised channel as the map, so that each can be looked at."""
    graph = Graph("frame")
    attrs = {
        "resize": list(resize),
        "crop": list(crop),
        "antialias": antialias,
        "scale": SCALE,
        "bias": BIAS,
    }
    (x,) = graph.add("frame", [], attrs)
    pick = graph.constant("pick", np.eye(3, dtype=np.float32)[channel].reshape(1, 3, 1, 1))
    (x,) = graph.add("mul", [x, pick])
    (x,) = graph.add("reduce_sum", [x], {"axes": [1], "keepdims": 1})
    graph.output("map", x)
    graph.output("score", graph.add("reduce_max", [x], {"axes": [1, 2, 3], "keepdims": 0})[0])
    return graph


def network_map(graph: Graph, image: np.ndarray, folder, isa="", precision="f32", pixel_format=""):
    path = folder / "frame.plan"
    write_test_plan(path, graph)
    engine = _core.Engine(_core.Plan(str(path)), 1, precision, isa)
    if isa:
        assert engine.describe()["isa"] == isa
    return engine.predict(image, pixel_format)["network_map"]


def image(height: int, width: int, channels: int = 3) -> np.ndarray:
    random = np.random.default_rng([height, width, channels])
    shape = (height, width) if channels == 1 else (height, width, channels)
    return random.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "size", [(1, 1), (3, 5), (24, 28), (31, 1023), (257, 129), (1, 40), (400, 300)]
)
def test_sizes(size, channels, precision, isa, tmp_path):
    frame = image(*size, channels)
    for channel in range(3):
        graph = frame_graph(channel)
        want = reference.run(graph, frame=frame)["map"][0, 0]
        got = network_map(graph, frame, tmp_path, isa, precision)
        tolerance = 1e-4 if precision == "f32" else 2e-2
        np.testing.assert_allclose(got, want, atol=tolerance)


LAYOUTS = {
    "fortran": lambda x: np.asfortranarray(x),
    "planar": lambda x: np.ascontiguousarray(x.transpose(2, 0, 1)).transpose(1, 2, 0),
    "upside down": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "mirrored": lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
    "channels reversed": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
    "all reversed": lambda x: np.ascontiguousarray(x[::-1, ::-1, ::-1])[::-1, ::-1, ::-1],
    "of four channels": lambda x: np.dstack([x, x[..., :1]])[..., :3],
    "last of four channels": lambda x: np.dstack([x[..., :1], x])[..., 1:],
    "cut out": lambda x: np.pad(x, ((2, 3), (5, 7), (0, 0)))[2:-3, 5:-7],
    "subsampled": lambda x: np.repeat(np.repeat(x, 2, 0), 3, 1)[::2, ::3],
    "transposed": lambda x: np.ascontiguousarray(x.transpose(1, 0, 2)).transpose(1, 0, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_change_a_bit(layout, isa, tmp_path):
    frame = image(61, 47)
    view = LAYOUTS[layout](frame)
    assert view.shape == frame.shape and (view == frame).all()
    for channel in range(3):
        graph = frame_graph(channel)
        got = network_map(graph, view, tmp_path, isa)
        np.testing.assert_array_equal(got, network_map(graph, frame, tmp_path, isa))


@pytest.mark.parametrize("pick", [(Ellipsis, 1), (slice(None, None, 2), slice(None), 0)])
def test_grey_views(pick, isa, tmp_path):
    """A channel of a colour image is a grey frame whose pixels are not neighbours."""
    frame = image(61, 47)[pick]
    graph = frame_graph(1)
    got = network_map(graph, frame, tmp_path, isa)
    np.testing.assert_array_equal(got, network_map(graph, frame.copy(), tmp_path, isa))


def test_grey_equals_three_equal_channels(isa, tmp_path):
    frame = image(61, 47, 1)
    for channel in range(3):
        graph = frame_graph(channel)
        colour = network_map(graph, np.dstack([frame] * 3), tmp_path, isa)
        np.testing.assert_array_equal(network_map(graph, frame, tmp_path, isa), colour)


def test_bgr(isa, tmp_path):
    frame = image(61, 47)
    for channel in range(3):
        graph = frame_graph(channel)
        got = network_map(graph, frame[..., ::-1], tmp_path, isa, pixel_format="BGR8")
        np.testing.assert_array_equal(got, network_map(graph, frame, tmp_path, isa))


@pytest.mark.parametrize("antialias", [0, 1])
@pytest.mark.parametrize("size", [(24, 28), (100, 77), (9, 13)])
def test_resize_is_that_of_training(size, antialias, isa, tmp_path):
    torch = pytest.importorskip("torch")
    frame = image(*size)
    values = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(
        values, (24, 28), mode="bilinear", align_corners=False, antialias=bool(antialias)
    )[0, :, 2:21, 3:24].numpy()
    for channel in range(3):
        got = network_map(frame_graph(channel, antialias=antialias), frame, tmp_path, isa)
        want = resized[channel] * SCALE[channel] + BIAS[channel]
        np.testing.assert_allclose(got, want, atol=2e-5)
