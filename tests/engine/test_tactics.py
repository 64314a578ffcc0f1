"""Which kernel a convolution uses: the engine's own choice, one that is told, a tuned one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import adfast
from adfast import _core
from adfast.cli import main
from adfast.compiler.graph import Graph
from adfast.compiler.writer import write_test_plan
from adfast.tune import HEADING, TACTICS, tune

CPU = Path("/proc/cpuinfo").read_text(encoding="utf-8")
# Intel's processors multiply pairs in bf16 slower than floats.
INTEL = "GenuineIntel" in CPU
# Zen, before Zen 2, computes vectors of AVX2 by halves.
ZEN = "AuthenticAMD" in CPU and re.search(r"cpu family\s*: 23\nmodel\s*: [0-3]?\d\n", CPU)
SIDE = 45  # a tile of 2 and one of 4 outputs have tails
FRAME = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return written(tmp_path_factory.mktemp("tactics") / "model.plan", {})


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    levels = {"input_scale": 0.02, "input_zero": 0}
    return written(tmp_path_factory.mktemp("tactics") / "int8.plan", levels)


def written(path, levels):
    """Four convolutions that any tactic can compute, one of stride 2, and one of 1x1."""
    graph = Graph("tactics")
    frame = {"resize": [SIDE, SIDE], "crop": [SIDE, SIDE], "scale": [0.01] * 3, "bias": [0.0] * 3}
    (x,) = graph.add("frame", [], frame)
    random = np.random.default_rng(0)

    def conv(x, name, out, channels, kernel, residual=None, stride=1):
        reach = (channels * kernel * kernel) ** -0.5
        values = random.uniform(-reach, reach, (out, channels, kernel, kernel))
        weight = graph.constant(name + ".weight", values)
        bias = graph.constant(name + ".bias", random.uniform(-1, 1, out))
        attrs = {"pads": [kernel // 2] * 4, "strides": [stride] * 2, "activation": "relu"}
        attrs |= levels if channels > 3 else {}
        return graph.add("conv2d", [x, weight, bias, residual], attrs, name=name)[0]

    first = conv(x, "first", 33, 3, 3)
    second = conv(first, "second", 33, 33, 3, residual=first)
    third = conv(second, "third", 64, 33, 5)
    fourth = conv(third, "fourth", 64, 64, 3)
    fifth = conv(fourth, "strided", 16, 64, 3, stride=2)
    sixth = conv(fifth, "pointwise", 24, 16, 1)
    (y,) = graph.add("reduce_sum", [sixth], {"axes": [1]})
    graph.output("map", y)
    graph.output("score", graph.add("reduce_max", [y], {"axes": [1, 2, 3], "keepdims": 0})[0])
    write_test_plan(path, graph)
    return path


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A linear of the size that transformers have, and a small one."""
    graph = Graph("tokens")
    frame = {"resize": [46, 46], "crop": [46, 46], "scale": [0.01] * 3, "bias": [-1.0] * 3}
    (x,) = graph.add("frame", [], frame)
    random = np.random.default_rng(0)

    def weight(name, *shape):
        return graph.constant(name + ".weight", random.normal(0, shape[1] ** -0.5, shape))

    patches = weight("patches", 512, 3, 2, 2)
    (x,) = graph.add("conv2d", [x, patches], {"strides": [2, 2]}, name="patches")
    (x,) = graph.add("tokens", [x])
    bias = graph.constant("bias", random.normal(size=2048))
    wide = [x, weight("wide", 2048, 512), bias]
    (x,) = graph.add("linear", wide, {"activation": "gelu"}, name="wide")
    (x,) = graph.add("linear", [x, weight("narrow", 16, 2048)], name="narrow")
    (x,) = graph.add("feature_map", [x], {"height": 23, "width": 23})
    (y,) = graph.add("reduce_sum", [x], {"axes": [1]})
    graph.output("map", y)
    graph.output("score", graph.add("reduce_max", [y], {"axes": [1, 2, 3], "keepdims": 0})[0])
    path = tmp_path_factory.mktemp("tactics") / "tokens.plan"
    write_test_plan(path, graph)
    return path


def told(folder, *lines: str):
    path = folder / "tactics"
    path.write_text("\n".join((HEADING, *lines)) + "\n", encoding="utf-8")
    return path


def opened(path, tactics, precision="f32", threads=1, isa=""):
    plan = _core.Plan(str(path))
    core = _core.Engine(plan, threads, precision, isa, str(tactics))
    return adfast.Engine(path, core, plan.contents())


def kernels(engine) -> dict[str, str]:
    ops = ("conv2d", "linear")
    return {s["name"]: s["kernel"] for s in engine.profile(FRAME) if s["op"] in ops}


@pytest.mark.parametrize("tactic", TACTICS)
def test_every_tactic_gives_the_answer_of_the_others(tactic, precision, isa, plan, tmp_path):
    path = told(tmp_path, f"{tactic} *")
    engine = opened(plan, path, precision, isa=isa)
    used = kernels(engine)
    if tactic != "strassen":
        for name in ("first", "second", "fourth"):
            expected = "onednn:" if tactic == "direct" else f"adfast:{tactic}x3"
            assert used[name].startswith(expected), used
    pairs = precision == "bf16" and isa == "avx512_bf16" and not INTEL
    if tactic.startswith("winograd"):
        assert ("_bf16:" in used["second"]) == pairs, used
    if tactic == "winograd2":
        assert used["third"].startswith("adfast:winograd2x5"), used
    if tactic == "strassen" and (precision == "f32" or pairs):
        assert used["pointwise"] == f"adfast:strassen{'_bf16' * pairs}:{isa}"
    if tactic == "direct":
        assert used["pointwise"].startswith("onednn:"), used
    assert used["strided"].startswith("onednn:"), "Winograd's algorithm has no stride"
    direct = adfast.load(plan, precision="f32", threads=1, tactics=told(tmp_path, "direct *"))
    expected = direct.predict(FRAME).network_map
    error = np.abs(engine.predict(FRAME).network_map - expected).max() / expected.max()
    assert error < (1e-5 if precision == "f32" else 2e-2)


def test_a_step_of_int8_runs_in_floats_where_that_is_faster(isa, quantised, tmp_path):
    """Winograd's algorithm may pass direct sums in int8, and keeps more digits."""
    pairs = isa == "avx512_bf16" and not INTEL
    engine = opened(quantised, told(tmp_path, "winograd4 *"), "int8", isa=isa)
    used = kernels(engine)
    assert used["fourth"].startswith(
        "adfast:winograd4x3_bf16:" if pairs else "adfast:winograd4x3:"
    ), used
    assert used["strided"].startswith("onednn:"), used
    steps = [step["name"] for step in engine.profile(FRAME)]
    assert steps.index("strided") == steps.index("fourth") + 1, "it writes u8 itself"
    direct = opened(quantised, told(tmp_path, "direct *"), "int8", isa=isa)
    assert all(kernel.startswith("onednn:") for kernel in kernels(direct).values())
    exact = opened(quantised, told(tmp_path, "direct *"), "f32", isa=isa).predict(FRAME).network_map
    for int8 in (direct, engine):
        error = np.abs(int8.predict(FRAME).network_map - exact).max() / exact.max()
        assert 1e-4 < error < 0.1


@pytest.mark.parametrize("precision", ["f32", "bf16", "int8"])
def test_1x1_convolutions_go_to_the_tiles_where_there_are_any(isa, precision, quantised, tmp_path):
    used = kernels(opened(quantised, told(tmp_path, "winograd4 fourth"), precision, isa=isa))
    tiles = isa == "avx512_amx" and precision != "f32"
    expected = f"adfast:linear_{precision}:avx512_amx" if tiles else "onednn:"
    assert used["pointwise"].startswith(expected), used
    direct = kernels(opened(quantised, told(tmp_path, "direct pointwise"), precision, isa=isa))
    assert direct["pointwise"].startswith("onednn:"), direct


def test_large_linears_take_fewer_products_where_that_is_faster(tokens, isa, tmp_path):
    engine = opened(tokens, "", isa=isa)
    used = kernels(engine)
    own = isa == "avx2" and ZEN
    assert used["wide"].startswith("adfast:strassen:avx2" if own else "onednn:"), used
    assert used["narrow"].startswith("onednn:"), used
    every = opened(tokens, told(tmp_path, "strassen *"), isa=isa)
    assert kernels(every) == {
        "patches": used["patches"],
        "wide": f"adfast:strassen:{isa}",
        "narrow": f"adfast:strassen:{isa}",
    }
    direct = opened(tokens, told(tmp_path, "direct *"), isa=isa)
    assert all(kernel.startswith("onednn:") for kernel in kernels(direct).values())
    expected = direct.predict(FRAME).network_map
    for other in (engine, every):
        error = np.abs(other.predict(FRAME).network_map - expected).max() / np.abs(expected).max()
        assert error < 1e-5


@pytest.mark.parametrize("tactic", ["winograd2", "winograd4", "strassen"])
def test_results_do_not_depend_on_threads(tactic, precision, plan, tmp_path):
    path = told(tmp_path, f"{tactic} *")
    one, *others = (
        adfast.load(plan, threads=threads, precision=precision, tactics=path)
        .predict(FRAME)
        .network_map
        for threads in (1, 2, 3, 5)
    )
    assert all(np.array_equal(one, other) for other in others)


def test_a_step_can_be_told_by_name(plan, tmp_path):
    path = told(tmp_path, "# a comment", "direct *", "winograd4 second")
    used = kernels(adfast.load(plan, precision="f32", tactics=path))
    assert used["second"].startswith("adfast:winograd4x3")
    assert all(kernel.startswith("onednn:") for name, kernel in used.items() if name != "second")


def test_the_engines_own_choice_is_the_same_every_time(plan):
    first, again = (kernels(adfast.load(plan, precision="f32")) for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line"),
        ("adfast tactics 2\ndirect *\n", "first line"),
        (f"{HEADING}\ndirect\n", "line 2: expected a tactic"),
        (f"{HEADING}\n# a comment\n *\n", "line 3: expected a tactic"),
        (f"{HEADING}\ndirect a\nwinograd2 a\n", "line 3: the step was named before"),
        (f"{HEADING}\nfastest *\n", "tactic 'fastest'"),
        ("\x00\xff" * 1000, "first line"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(text, message, plan, tmp_path):
    path = tmp_path / "tactics"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(adfast.ArgumentError, match=message):
        adfast.load(plan, tactics=path)


def test_a_file_of_another_plan_is_refused(plan, tmp_path):
    with pytest.raises(adfast.ArgumentError, match="no step 'conv9'"):
        adfast.load(plan, tactics=told(tmp_path, "direct conv9"))


def test_a_missing_file_is_named(plan, tmp_path):
    with pytest.raises(adfast.AdfastError, match="nowhere"):
        adfast.load(plan, tactics=tmp_path / "nowhere")


def test_tune_writes_a_file_that_the_engine_takes(plan, tmp_path, capsys):
    path = tmp_path / "model.tactics"
    command = ["tune", str(plan), "-o", str(path), "--frames", "2", "--precision", "f32"]
    assert main(command) == 0
    assert str(path) in capsys.readouterr().out
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == HEADING
    told_lines = [line.split(" ", 1) for line in lines[1:] if not line.startswith("#")]
    wanted = {name: tactic for tactic, name in told_lines}
    used = kernels(adfast.load(plan, precision="f32", tactics=path))
    for name, tactic in wanted.items():
        assert used[name].startswith("onednn:" if tactic == "direct" else f"adfast:{tactic}")
    assert main(["bench", str(plan), "--tactics", str(path), "--seconds", "0.1"]) == 0


def test_tuning_measures_linears_too(tokens, tmp_path, monkeypatch):
    monkeypatch.setattr("adfast.tune.WORTHWHILE", 1e9)
    path = tmp_path / "tokens.tactics"
    result = tune(tokens, path, precision="f32", threads=1, frames=2)
    found = {step["name"]: step["tactic"] for step in result["steps"]}
    assert {"wide", "narrow"} <= found.keys()
    used = kernels(opened(tokens, path))
    for name in ("wide", "narrow"):
        expected = "onednn:" if found[name] == "direct" else "adfast:strassen:"
        assert used[name].startswith(expected), used
