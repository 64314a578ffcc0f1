"""Write the plans of the C++ engine tests: python make_plans.py FOLDER.

lanes.plan has two branches, chain.plan is one chain of the ops that transformers are made of.
kernels.plan has two branches of our own kernels alone: what oneDNN generates at run time, no
sanitizer sees. winograd.tactics asks for our own convolutions wherever they can do a step.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from conftest import tiny_graph  # noqa: E402

from adfast.compiler.graph import Graph  # noqa: E402
from adfast.compiler.writer import Golden, plan_fields, write_plan  # noqa: E402

WIDTH, SIDE = 16, 24
# Steps so long that the schedule finds a second lane worth its waiting.
RESIZE, CROP, LARGE = [180, 200], [160, 160], [256, 256]


def chain_graph() -> Graph:
    random = np.random.default_rng(6)
    graph = Graph("chain")

    def constant(name: str, *shape: int):
        values = random.standard_normal(shape) / np.sqrt(shape[-1])
        return graph.constant(name, values.astype(np.float32))

    def conv(x, name: str, channels: int, kernel: int, **attrs):
        groups = attrs.get("groups", 1)
        weight = constant(f"{name}.weight", channels, x.shape[1] // groups, kernel, kernel)
        pads = [kernel // 2] * 4
        (y,) = graph.add("conv2d", [x, weight], attrs | {"pads": pads}, name=name)
        return y

    def linear(x, name: str, out: int, activation: str = "none"):
        operands = [x, constant(f"{name}.weight", out, x.shape[-1]), constant(f"{name}.bias", out)]
        (y,) = graph.add("linear", operands, {"activation": activation}, name=name)
        return y

    sizes = {"resize": [SIDE, SIDE], "crop": [SIDE, SIDE]}
    (frame,) = graph.add("frame", [], sizes | {"scale": [1 / 255] * 3, "bias": [-0.5] * 3})
    x = conv(frame, "stem", WIDTH, 3, activation="silu")
    (pooled,) = graph.add("max_pool2d", [x], {"kernel": [2, 2], "strides": [2, 2]})
    x = conv(pooled, "depthwise", WIDTH, 3, groups=WIDTH)
    (x,) = graph.add("add", [x, pooled])
    (tokens,) = graph.add("tokens", [x])
    q, k, v = (linear(tokens, name, WIDTH) for name in "qkv")
    (x,) = graph.add("attention", [q, k, v], {"heads": 2, "scale": 0.35})
    gamma, beta = constant("gamma", WIDTH), constant("beta", WIDTH)
    (x,) = graph.add("layer_norm", [x, gamma, beta, tokens])
    x = linear(linear(x, "hidden", 4 * WIDTH, "gelu"), "out", WIDTH)
    (difference,) = graph.add("sub", [x, tokens])
    (squares,) = graph.add("square", [difference])
    (features,) = graph.add(
        "feature_map", [squares], {"height": SIDE // 2, "width": SIDE // 2}, name="back"
    )
    (x,) = graph.add("reduce_sum", [features], {"axes": [1]})
    (x,) = graph.add("sqrt", [x])
    (x,) = graph.add("resize_bilinear", [x], {"height": SIDE, "width": SIDE})
    kernel = graph.constant("kernel", np.array([0.25, 0.5, 0.25], np.float32))
    (blurred,) = graph.add("gaussian_blur", [x, kernel])
    (score,) = graph.add("reduce_max", [blurred], {"axes": [1, 2, 3], "keepdims": 0})
    graph.output("map", blurred)
    graph.output("score", score)
    return graph


def kernels_graph() -> Graph:
    graph = Graph("kernels")
    sizes = {"resize": LARGE, "crop": LARGE}
    (frame,) = graph.add("frame", [], sizes | {"scale": [1 / 255] * 3, "bias": [-0.5] * 3})
    branches = []
    for ops in (("silu", "tanh", "abs"), ("tanh", "sigmoid", "square")):
        x = frame
        for op in ops:
            (x,) = graph.add(op, [x])
        branches.append(x)
    score_map, _, _ = graph.add("score_map", branches)
    (score,) = graph.add("reduce_max", [score_map], {"axes": [1, 2, 3], "keepdims": 0})
    graph.output("map", score_map)
    graph.output("score", score)
    return graph


def main() -> int:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, graph, resize, crop in (
        ("lanes", tiny_graph(RESIZE, CROP), RESIZE, CROP),
        ("kernels", kernels_graph(), LARGE, LARGE),
        ("chain", chain_graph(), [SIDE, SIDE], [SIDE, SIDE]),
    ):
        fields = plan_fields(model=name, name=name, resize=resize, crop=crop)
        write_plan(folder / f"{name}.plan", graph, fields, {}, Golden(), {}, {})
    (folder / "winograd.tactics").write_text("adfast tactics 1\nwinograd2 *\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
