"""Plans with a TensorRT engine, on the emulated backend with stand-ins for libnvinfer 10 and 11.

What the stand-ins are told and answer is laid out as csrc/backends/cuda/nvinfer.h has it;
nvinfer_layout.cpp compares that with TensorRT's headers.
"""

from __future__ import annotations

import ctypes
import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import adfast
from adfast import _core
from adfast.compiler.graph import Graph
from adfast.compiler.writer import Golden, GoldenFrame, plan_fields, write_plan
from adfast.errors import AdfastError, ArgumentError, CompileError
from adfast.plan_file import TENSORRT, read_sections, write_sections
from adfast.tensorrt import builder
from adfast.tensorrt.target import add_engine, engine_section

ROOT = Path(__file__).parent.parent.parent
FRAME = np.random.default_rng(4).integers(0, 256, (40, 52, 3), dtype=np.uint8)
# Of the emulated card.
CAPABILITY = "9.0"


@pytest.fixture(autouse=True)
def emulated(cuda):
    if not cuda.emulated:
        pytest.skip("a card's TensorRT would refuse the stand-ins' engines")


def mean_graph() -> Graph:
    """What the stand-ins' engines compute: the mean of the channels, and its maximum."""
    graph = Graph("mean")
    frame = {"resize": [18, 20], "crop": [16, 16], "scale": [1 / 255] * 3, "bias": [0.0] * 3}
    (x,) = graph.add("frame", [], frame, name="frame")
    (x,) = graph.add("reduce_mean", [x], {"axes": [1]}, name="mean")
    graph.output("map", x)
    graph.output("score", graph.add("reduce_max", [x], {"axes": [1, 2, 3], "keepdims": 0})[0])
    return graph


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A plan without an engine, its golden frames those of the engine on the CPU."""
    path = tmp_path_factory.mktemp("tensorrt") / "mean.plan"
    fields = plan_fields(model="mean", name="mean", resize=[18, 20], crop=[16, 16])
    write_plan(path, mean_graph(), fields, {}, Golden(), {}, {})
    result = adfast.load(path, device="cpu").predict(FRAME)
    golden = Golden([GoldenFrame(FRAME, result.score, result.network_map)], 1e-5, 1e-3)
    write_plan(path, mean_graph(), fields, {"threshold": 0.5}, golden, {}, {})
    return path


@pytest.fixture
def with_engine(plain, tmp_path):
    """Make a function to a plan with an engine of a stand-in."""
    numbers = itertools.count()

    def make(trouble="", sides="16 16 16 16", data=None, **info):
        info = {"version": "11.4.0", "capability": CAPABILITY, "precision": "f16"} | info
        engine = f"FAKE {sides} {trouble}".encode() if data is None else data
        sections = read_sections(_core.Plan(str(plain)))
        path = tmp_path / f"engine{next(numbers)}.plan"
        write_sections(path, sections | {TENSORRT: engine_section(info, engine)})
        return path

    return make


@pytest.mark.parametrize("version", ["10.4.0", "11.4.0"])
@pytest.mark.parametrize("trouble", ["", "wait"], ids=["recorded", "not recorded"])
def test_engine(version, trouble, with_engine, plain, on_cuda):
    """In both layouts, and where the engine's work cannot be recorded."""
    path = with_engine(trouble, version=version)
    engine = on_cuda(path, device="tensorrt")
    assert engine.info["device"] == "tensorrt" and engine.info["precision"] == "f16"
    expected = adfast.load(plain, device="cpu")
    frames = [np.roll(FRAME, i, axis=0)[: 30 + i] for i in range(7)]
    for got, frame in zip(engine.predict_batch(frames), frames, strict=True):
        want = expected.predict(frame)
        np.testing.assert_allclose(got.map, want.map, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got.network_map, want.network_map, rtol=1e-5, atol=1e-6)
        assert got.score == pytest.approx(want.score, rel=1e-5)
        np.testing.assert_array_equal(engine.predict(frame).map, got.map)
    assert engine.self_test()["passed"]
    assert [step["op"] for step in engine.profile(FRAME)] == ["frame", "tensorrt"]


def test_who_runs_the_network(with_engine, plain, on_cuda):
    path = with_engine()
    assert on_cuda(path, device="auto").info["device"] == "tensorrt"
    assert on_cuda(path, device="tensorrt:0").info["device"] == "tensorrt"
    assert on_cuda(path, device="cuda").info["device"] == "cuda"
    assert adfast.load(path, device="cpu").info["device"] == "cpu"
    assert on_cuda(path, device="auto", precision="f16").info["device"] == "tensorrt"
    with pytest.raises(ArgumentError, match="adfast build PLAN --target tensorrt"):
        on_cuda(plain, device="tensorrt")
    found = on_cuda(plain, device="auto").info
    assert found["device"] == "cuda" and found["device_note"] == ""


def test_an_engine_of_another_precision_is_left_alone(with_engine, on_cuda):
    path = with_engine()
    found = on_cuda(path, device="auto", precision="bf16").info
    assert found["device"] == "cuda" and found["precision"] == "bf16"
    assert "the plan's engine is in f16" in found["device_note"]
    with pytest.raises(ArgumentError, match="the plan's engine is in f16"):
        on_cuda(path, device="tensorrt", precision="bf16")
    quantised = with_engine(precision="int8")
    for device in ("tensorrt", "auto"):
        found = on_cuda(quantised, device=device, precision="int8").info
        assert found["device"] == "tensorrt" and found["precision"] == "int8"
    with pytest.raises(ArgumentError, match="int8"):
        on_cuda(quantised, device="cuda", precision="int8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "11.3.0"}, r"of TensorRT 11\.3\.0, this machine has 11\.4\.0"),
        ({"version": "12.0.0"}, "knows 10 and 11"),
        ({"version": "word"}, "knows 10 and 11"),
        ({"capability": "8.9"}, r"for compute capability 8\.9, this card has 9\.0"),
        ({"trouble": "damaged"}, r"refuses the plan's engine \(magic tag does not match\)"),
        ({"data": b"\0\1\2"}, "refuses the plan's engine"),
        ({"trouble": "names"}, "has not the values image, map and score"),
        ({"trouble": "half"}, r"'image' \[1,16,16,3\], expected .* of f32"),
        ({"sides": "16 16 8 16"}, r"'map' \[1,1,8,16\], expected 'map' \[1,1,16,16\]"),
        ({"sides": "20 16 16 16"}, r"'image' \[1,20,16,3\], expected 'image' \[1,16,16,3\]"),
        ({"trouble": "context"}, r"no execution context \(no memory for a context\)"),
        ({"trouble": "run"}, r"does not run \(this engine never runs\)"),
    ],
    ids=str,
)
def test_engines_that_do_not_fit(change, message, with_engine, plain, on_cuda):
    """Said when asked for, and once as a note where the card's own kernels do."""
    path = with_engine(**change)
    with pytest.raises(AdfastError, match=message):
        on_cuda(path, device="tensorrt")
    engine = on_cuda(path, device="auto")
    assert engine.info["device"] == "cuda"
    assert re.search(message, engine.info["device_note"])
    assert engine.predict(FRAME).score == pytest.approx(
        adfast.load(plain, device="cpu").predict(FRAME).score, rel=1e-4
    )


def test_nan_is_named(with_engine, on_cuda):
    engine = on_cuda(with_engine("nan"), device="tensorrt")
    with pytest.raises(AdfastError, match=r"\[tensorrt 'tensorrt'\] is the first.*bf16"):
        engine.predict(FRAME)


LOAD = """
import adfast, sys
engine, again = (adfast.load(sys.argv[1]) for _ in range(2))
assert again.info["device"] == engine.info["device"]
print(engine.info["device"], engine.info["device_note"])
"""


def load_elsewhere(plan, folder) -> str:
    """Load a plan in a process of its own: a library stays open once it is.

    Returns:
        The device that was taken and the note beside it.
    """
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(plan)],
        env={"ADFAST_LIBRARIES": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_without_the_library(with_engine, cuda, tmp_path):
    for name in ("adfast_cuda.so", "adfast_emulated_cuda.so", "cublasLt.so.13", "cudnn.so.9"):
        (tmp_path / f"lib{name}").symlink_to(f"{cuda.folders[0]}/lib{name}")
    said = load_elsewhere(with_engine(), tmp_path)
    assert said.startswith("cuda [cuda] no TensorRT 11 (")
    assert "pip install 'tensorrt==11.*'" in said


def test_a_card_without_cudnn_runs_engines(with_engine, cuda, tmp_path):
    for name in ("libadfast_cuda.so", "libadfast_emulated_cuda.so", "libnvinfer.so.11"):
        (tmp_path / name).symlink_to(f"{cuda.folders[0]}/{name}")
    assert load_elsewhere(with_engine(), tmp_path) == "tensorrt \n"


@pytest.mark.parametrize("version", ["10.4.0", "11.4.0"])
def test_an_engine_with_plugins(version, with_engine, cuda, tmp_path):
    """Its plugins are registered where they were built, and missed where they were not."""
    path = with_engine(version=version, plugins=1)
    assert load_elsewhere(path, cuda.folders[0]) == "tensorrt \n"
    for library in Path(cuda.folders[0]).glob("lib*.so*"):
        if "trt" not in library.name:
            # A copy: the plugins are looked for beside the file itself too.
            (tmp_path / library.name).write_bytes(library.read_bytes())
    said = load_elsewhere(path, tmp_path)
    assert said.startswith("cuda [tensorrt]") and "no libadfast_trt.so" in said


@pytest.mark.parametrize("major", builder.MAJORS)
def test_the_true_registry_takes_our_plugins(major, cuda):
    """The runtimes of TensorRT open libadfast_trt.so and make its plugin, without a card."""
    site = ROOT / ".venv" / f"tensorrt{major}"
    library = site / "tensorrt_lean_libs" / f"libnvinfer_lean.so.{major}"
    if not library.exists():
        pytest.skip(f"no runtime of TensorRT {major} here: `make test` looks for one")
    done = subprocess.run(
        [sys.executable, "-c", REGISTRY, str(library), f"{cuda.folders[0]}/libadfast_trt.so"]
        + [str(place) for place in {10: (10, 14), 11: (6, 10)}[major]],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["opened", "found", "named", "made"]


# Calls the registry by the places of nvinfer.h.
REGISTRY = """
import ctypes, sys
pointer, text = ctypes.c_void_p, ctypes.c_char_p

def function(this, place, result, *arguments):
    table = ctypes.cast(this, ctypes.POINTER(ctypes.POINTER(pointer)))[0]
    return ctypes.CFUNCTYPE(result, pointer, *arguments)(table[place])

library = ctypes.CDLL(sys.argv[1])
library.getPluginRegistry.restype = pointer
registry = library.getPluginRegistry()
load, find = (int(place) for place in sys.argv[3:])
if function(registry, load, pointer, text)(registry, sys.argv[2].encode()): print("opened")
words = b"AdfastHaloAttention", b"1", b""
creator = function(registry, find, pointer, text, text, text)(registry, *words)
if creator: print("found")
if function(creator, 6, text)(creator) == words[0]: print("named")

class Field(ctypes.Structure):
    _fields_ = [("name", text), ("data", pointer), ("type", ctypes.c_int32), ("n", ctypes.c_int32)]
class Fields(ctypes.Structure):
    _fields_ = [("count", ctypes.c_int32), ("fields", ctypes.POINTER(Field))]

numbers = {b"block": 12, b"halo": 2, b"heads": 4, b"legacy_mask": 0}
kept = [ctypes.c_int32(n) for n in numbers.values()] + [ctypes.c_float(0.25)]
fields = (Field * 5)(*(
    Field(name, ctypes.addressof(value), 5 if name in numbers else 1, 1)
    for name, value in zip([*numbers, b"scale"], kept)))
given = Fields(5, fields)
make = function(creator, 4, pointer, text, ctypes.POINTER(Fields), ctypes.c_int32)
if make(creator, b"layer", ctypes.byref(given), 1): print("made")
"""


@pytest.mark.parametrize("major", builder.MAJORS)
def test_the_true_library(major, plain, cuda, tmp_path):
    """Without a card it does not start, and says why: opened, asked for its version, and heard."""
    site = ROOT / ".venv" / f"tensorrt{major}"
    library = site / "tensorrt_lean_libs" / f"libnvinfer_lean.so.{major}"
    if not library.exists():
        pytest.skip(f"no runtime of TensorRT {major} here: `make test` looks for one")
    for name in ("adfast_cuda.so", "adfast_emulated_cuda.so", "cublasLt.so.13", "cudnn.so.9"):
        (tmp_path / f"lib{name}").symlink_to(f"{cuda.folders[0]}/lib{name}")
    (tmp_path / f"libnvinfer.so.{major}").symlink_to(library)
    number = ctypes.CDLL(str(library)).getInferLibVersion()
    version = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    assert version.startswith(f"{major}.")
    info = {"version": version, "capability": CAPABILITY, "precision": "f16"}
    sections = read_sections(_core.Plan(str(plain)))
    write_sections(
        tmp_path / "a.plan", sections | {TENSORRT: engine_section(info, b"no engine" * 99)}
    )
    told = load_elsewhere(tmp_path / "a.plan", tmp_path)
    # Where there is a driver it starts, and refuses what is no engine.
    said = (
        r"cuda \[tensorrt\] TensorRT .* (does not start|refuses the plan's engine) \(.*Error Code"
    )
    assert re.match(said, told), told


class FakeTensorRt:
    """As much of TensorRT's package as a build needs; engines are the stand-ins'."""

    __version__ = "11.4.0.106"

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = range(3)

    class IProgressMonitor:
        pass

    class NetworkDefinitionCreationFlag:
        STRONGLY_TYPED = 1

    class BuilderFlag:
        TF32 = 7

    def __init__(self, trouble: str = "") -> None:
        self.trouble = trouble
        self.cleared: list[int] = []
        self.loaded: list[str] = []  # libraries of plugins
        self.domains: set[str] = set()
        trt = self

        class Builder:
            def __init__(self, logger):
                self.logger = logger

            def create_network(self, flags):
                assert flags == 2
                return {}

            def create_builder_config(self):
                return Config()

            def build_serialized_network(self, network, config):
                assert trt.cleared.pop() == FakeTensorRt.BuilderFlag.TF32
                self.logger.log(2, "a warning of TensorRT")
                config.progress_monitor.phase_start("tactics", None, 2)
                assert config.progress_monitor.step_complete("tactics", 0)
                config.progress_monitor.phase_finish("tactics")
                if trt.trouble == "build":
                    self.logger.log(1, "no tactic fits")
                    return None
                sides = [*network["image"][1:3], *network["map"][2:]]
                if trt.trouble == "wrong":
                    sides[2] -= 1
                return f"FAKE {' '.join(map(str, sides))} {trt.trouble}".encode()

        class Config:
            def clear_flag(self, flag):
                trt.cleared.append(flag)

        class Error:
            def desc(self):
                return "node 3 is unknown"

        class OnnxParser:
            num_errors = 1

            def __init__(self, network, logger):
                self.network = network

            def parse(self, data):
                import onnx

                graph = onnx.load_from_string(data).graph
                trt.domains |= {node.domain for node in graph.node}
                for each in (*graph.input, *graph.output):
                    shape = each.type.tensor_type.shape
                    self.network[each.name] = [side.dim_value for side in shape.dim]
                return trt.trouble != "parse"

            def get_error(self, index):
                return Error()

        self.Builder, self.OnnxParser = Builder, OnnxParser

    def get_plugin_registry(self):
        return self

    def load_library(self, path):
        self.loaded.append(path)

    def get_creator(self, name, version, space):
        assert (name, version, space) == ("AdfastHaloAttention", "1", "")
        return self.loaded if self.loaded and self.trouble != "registry" else None


@pytest.fixture
def tensorrt(monkeypatch, cuda):
    """Install a fake TensorRT and the emulated card; return a function that gives it troubles."""
    monkeypatch.setenv("ADFAST_LIBRARIES", ":".join(cuda.folders))
    monkeypatch.setattr(builder, "use_card", lambda number: builder.Card("a card", CAPABILITY))

    def install(trouble=""):
        fake = FakeTensorRt(trouble)
        monkeypatch.setattr(builder, "import_tensorrt", lambda: fake)
        return fake

    install()
    return install


def test_a_plan_gets_an_engine(plain, tensorrt, tmp_path):
    said, phases = [], []
    made = add_engine(
        plain,
        tmp_path / "a.plan",
        log=said.append,
        progress=lambda *phase: phases.append(phase),
    )
    assert made["version"] == "11.4.0" and made["precision"] == "f16"
    assert made["self_test"]["passed"] and "a warning of TensorRT" in said
    assert phases == [("tactics", 0, 2), ("tactics", 1, 2), ("tactics", 2, 2)]
    before, after = (_core.Plan(str(path)) for path in (plain, tmp_path / "a.plan"))
    assert after.section_names == [*before.section_names, "tensorrt"]
    for name in before.section_names:
        assert before.section(name) == after.section(name)
    engine = adfast.load(tmp_path / "a.plan")
    assert engine.info["device"] == "tensorrt" and engine.info["plan_version"] == 3
    # Again, onto itself: one engine, not two.
    add_engine(tmp_path / "a.plan", tmp_path / "a.plan")
    assert _core.Plan(str(tmp_path / "a.plan")).section_names == after.section_names


def test_an_engine_that_does_not_fit_is_built_anew(with_engine, plain, tensorrt, monkeypatch):
    """Where that is asked for and a builder is here; the file stays as it is."""
    old = with_engine(version="11.3.0")
    before = old.read_bytes()
    for device in ("auto", "tensorrt", "tensorrt:0"):
        engine = adfast.load(old, device=device, rebuild=True)
        assert engine.info["device"] == "tensorrt" and engine.info["plan"] == str(old)
        assert engine.self_test()["passed"]
    assert adfast.load(old).info["device"] == "cuda" and old.read_bytes() == before
    assert adfast.load(plain, rebuild=True).info["device"] == "cuda"  # has none
    assert adfast.load(old, device="cpu", rebuild=True).info["device"] == "cpu"

    def none():
        raise ArgumentError("[tensorrt] TensorRT is not here")

    monkeypatch.setattr(builder, "import_tensorrt", none)
    found = adfast.load(old, rebuild=True).info
    assert found["device"] == "cuda" and "11.3.0" in found["device_note"]
    with pytest.raises(ArgumentError, match=r"of TensorRT 11\.3\.0, this machine has 11\.4\.0"):
        adfast.load(old, device="tensorrt", rebuild=True)


@pytest.mark.parametrize(
    ("trouble", "error", "message"),
    [
        ("parse", CompileError, "does not take the network: node 3 is unknown"),
        ("build", AdfastError, "no engine could be built: no tactic fits"),
        ("wrong", CompileError, "was built and does not run: .*'map'"),
        ("nan", CompileError, "was built and does not run: .*not a finite number"),
    ],
)
def test_engines_that_are_not_taken(trouble, error, message, plain, tensorrt, tmp_path):
    tensorrt(trouble)
    with pytest.raises(error, match=message):
        add_engine(plain, tmp_path / "a.plan")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_gets_an_engine_with_plugins(cuda, tensorrt, plan_of_model, tmp_path):
    """As far as a stand-in goes: TensorRT has our plugin before it reads the network."""
    fake = tensorrt()
    with pytest.raises(AdfastError):  # its answers are another network's
        add_engine(plan_of_model("haloae"), tmp_path / "a.plan", plugins=True)
    assert fake.loaded == [f"{cuda.folders[0]}/libadfast_trt.so"] and fake.domains == {"adfast", ""}
    fake = tensorrt("registry")
    with pytest.raises(ArgumentError, match=r"does not take .*libadfast_trt\.so"):
        add_engine(plan_of_model("haloae"), tmp_path / "a.plan", plugins=True)
    fake = tensorrt()
    with pytest.raises(AdfastError):
        add_engine(plan_of_model("saae"), tmp_path / "a.plan", plugins=True)
    assert fake.loaded == []  # no halo attention, no plugins


def test_an_engine_that_answers_otherwise_is_refused(tensorrt, tiny_plan, tmp_path):
    """The stand-in's answers are not those of this network."""
    with pytest.raises(CompileError, match="answers to the plan's golden frames are off"):
        add_engine(tiny_plan, tmp_path / "a.plan")
    assert list(tmp_path.iterdir()) == []


def test_command(plain, tensorrt, tmp_path, capsys):
    from adfast.cli import main

    out = tmp_path / "out.plan"
    assert main(["build", str(plain), "-o", str(out), "--target", "tensorrt"]) == 0
    assert "f16 for a card, by TensorRT 11.4.0.106" in capsys.readouterr().err
    assert main(["info", str(out)]) == 0
    text = capsys.readouterr().out
    assert "plan format 3" in text and "TensorRT engine" in text and CAPABILITY in text
    assert main(["selftest", str(out), "--device", "tensorrt"]) == 0
    assert main(["build", str(plain), "-o", str(out)]) != 0
    assert "with --target tensorrt it gets an engine" in capsys.readouterr().err
