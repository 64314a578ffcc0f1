"""The build script against TensorRT's own Python bindings, and the driver against a stand-in.

The libraries behind the bindings take gigabytes and a card. With stubs in their place the bindings
import, and say what every class and function of theirs takes; `make test` brings them, 10 and 11.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adfast.errors import ArgumentError
from adfast.tensorrt import builder

ROOT = Path(__file__).parent.parent.parent

SYMBOLS = (
    "createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL "
    "createNvOnnxParserRefitter_INTERNAL createNvOnnxParser_INTERNAL getBuilderPluginRegistry "
    "getNvOnnxParserVersion getPluginRegistry initLibNvInferPlugins"
).split()

# What a build does with TensorRT's package, call by call, written down.
RECORD = """
import json, sys
from adfast.tensorrt import builder

seen = []

def recorded(name, results):
    class Recorded:
        def __init__(self, *args):
            seen.append([name, "__init__", len(args)])
        def __setattr__(self, attribute, value):
            seen.append([name, attribute, None])
        def __getattr__(self, attribute):
            if attribute not in results:
                raise AttributeError(attribute)
            result = results[attribute]
            if not callable(result):
                seen.append([name, attribute, None])
                return result
            def call(*args):
                seen.append([name, attribute, len(args)])
                return result(*args)
            return call
    Recorded.__name__ = name
    return Recorded

class Enumeration:
    def __init__(self, name):
        self.name = name
    def __getattr__(self, member):
        seen.append([self.name, member, None])
        return 1

class Base:
    def __init__(self):
        seen.append([type(self).__bases__[0].__name__, "__init__", 0])
    def __init_subclass__(cls):
        for name, member in vars(cls).items():
            if callable(member) and not name.startswith("__") and cls.__bases__[0] is not Base:
                parameters = member.__code__.co_varnames[1:member.__code__.co_argcount]
                seen.append([cls.__bases__[0].__name__, name, list(parameters)])

def run(parses, builds):
    class trt:
        __version__ = "11.4.0.106"
        class ILogger(Base):
            INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2
        class IProgressMonitor(Base):
            pass
        NetworkDefinitionCreationFlag = Enumeration("NetworkDefinitionCreationFlag")
        BuilderFlag = Enumeration("BuilderFlag")
        Builder = recorded("Builder", {
            "create_network": lambda flags: "network",
            "create_builder_config": lambda: recorded("IBuilderConfig", {
                "clear_flag": lambda flag: None})(),
            "build_serialized_network": lambda network, config: builds,
        })
        OnnxParser = recorded("OnnxParser", {
            "parse": lambda data: parses, "num_errors": 1,
            "get_error": lambda i: recorded("ParserError", {"desc": lambda: "no"})(),
        })
    try:
        builder.build_engine(trt, b"", builder.Card("a card", "9.0"))
    except builder.AdfastError:
        assert not (parses and builds)

run(True, b"engine"), run(False, None), run(True, None)

class registry:
    __version__ = "11.4.0.106"
    known = []
    get_plugin_registry = recorded("IPluginRegistry", {
        "get_creator": lambda *words: registry.known[0] if registry.known else None,
        "load_library": lambda path: registry.known.append(path),
    })

builder.load_plugins(registry, "library")
builder.load_plugins(registry, "library")
assert registry.known == ["library"]
print(json.dumps(seen))
"""

# Each of the calls, against what the bindings say of themselves.
COMPARE = """
import json, re, sys
import tensorrt_bindings as trt

problems = []
for name, attribute, given in json.load(sys.stdin):
    owner = getattr(trt, name, None)
    member = getattr(owner, attribute, None)
    if member is None:
        problems.append(f"{name}.{attribute} is missing")
        continue
    text = (member.__doc__ or "").strip().split("\\n")[0]
    made_elsewhere = attribute == "__init__" and name in (
        "IBuilderConfig", "ParserError", "IPluginRegistry")
    if given is None or "*args" in text or made_elsewhere:
        continue
    inside = re.search(r"\\((.*)\\)", text).group(1)
    parameters = [each.strip() for each in inside.split(", ")][1:]
    names = [each.split(":")[0].split("=")[0].strip() for each in parameters]
    if isinstance(given, list):
        if names != given:
            problems.append(f"{name}.{attribute} takes {names}, overridden with {given}")
        continue
    least = sum("=" not in each for each in parameters)
    if not least <= given <= len(parameters):
        problems.append(f"{name}.{attribute} takes {parameters}, called with {given}")

class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
    def log(self, severity, msg):
        pass
class Monitor(trt.IProgressMonitor):
    def __init__(self):
        trt.IProgressMonitor.__init__(self)
        self.steps = {}
Logger(), Monitor()
assert trt.ILogger.ERROR == trt.ILogger.Severity.ERROR and trt.ILogger.WARNING
assert trt.ILogger.INTERNAL_ERROR
int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
print(json.dumps([trt.__version__, problems]))
"""


@pytest.mark.parametrize("major", builder.MAJORS)
def test_the_build_script_fits_the_bindings(major, tmp_path):
    bindings = ROOT / ".venv" / f"tensorrt{major}"
    if not (bindings / "tensorrt_bindings").is_dir():
        pytest.skip(f"no bindings of TensorRT {major} for this Python: `make test` looks for them")
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "a C compiler is needed"
    source = tmp_path / "stubs.c"
    source.write_text("".join(f"void* {name}(void) {{ return 0; }}\n" for name in SYMBOLS))
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        name = f"lib{library}.so.{major}"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", name, source]
        subprocess.run(command, cwd=tmp_path, check=True)
    calls = subprocess.run(
        [sys.executable, "-c", RECORD], check=True, capture_output=True, text=True
    ).stdout
    done = subprocess.run(
        [sys.executable, "-c", COMPARE],
        input=calls,
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(bindings)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    version, problems = json.loads(done.stdout)
    assert version.startswith(f"{major}.") and problems == []
    called = {(name, attribute) for name, attribute, _ in json.loads(calls)}
    assert {("Builder", "build_serialized_network"), ("OnnxParser", "parse")} <= called
    assert {("IPluginRegistry", "load_library")} <= called
    assert {("ILogger", "log"), ("IProgressMonitor", "step_complete")} <= called


DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int* count) { *count = 1; return 0; }
int cuDeviceGet(int* device, int number) { *device = 5; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 9 : -1;
  return device == 5 ? 0 : 1;
}
int cuDeviceGetName(char* name, int size, int device) { strncpy(name, "A Card", size); return 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { *context = (void*)7; return 0; }
int cuCtxSetCurrent(void* context) { return context == (void*)7 ? 0 : 201; }
"""


def test_cards(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    (tmp_path / "driver.c").write_text(DRIVER)
    command = [compiler, "-shared", "-fPIC", "-o", "libcuda.so.1", "driver.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    code = (
        "from adfast.tensorrt.builder import use_card\n"
        "from adfast.errors import ArgumentError\n"
        "print(use_card(0))\n"
        "try: use_card(1)\n"
        "except ArgumentError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "Card(name='A Card', capability='8.9')" in done.stdout
    assert "card 1: this machine has 1" in done.stdout


def test_machines_without(monkeypatch):
    monkeypatch.setattr(builder.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError("none")))
    with pytest.raises(ArgumentError, match="no driver .* adfast export PLAN --target tensorrt"):
        builder.use_card()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ArgumentError, match=r"TensorRT is not here .* pip install 'tensorrt==11"):
        builder.import_tensorrt()
    monkeypatch.setitem(sys.modules, "tensorrt", type("trt", (), {"__version__": "8.6.1"}))
    with pytest.raises(ArgumentError, match=re.escape("this is TensorRT 8.6.1, expected 10 or 11")):
        builder.import_tensorrt()
