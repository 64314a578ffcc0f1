"""Having TensorRT make an engine of a strongly typed network, on the card it is to run on."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adfast.errors import AdfastError, ArgumentError, CompileError

#: What is called here is the same in these major versions.
MAJORS = (10, 11)
#: Of libadfast_trt.so.
PLUGIN, PLUGIN_VERSION = "AdfastHaloAttention", "1"
REMEDY = "pip install 'tensorrt==11.*' on a machine with the card that the engine is for"


@dataclass(frozen=True)
class Card:
    """A card: its name and its compute capability, as "9.0"."""

    name: str
    capability: str


@dataclass(frozen=True)
class Built:
    """A serialised engine, and what it runs on: this version of TensorRT, cards of this kind."""

    data: bytes
    version: str
    card: Card


def use_card(number: int = 0) -> Card:
    """Make a card the calling thread's, so that TensorRT builds for it.

    Args:
        number: among the cards, from 0.

    Raises:
        ArgumentError: there is no driver, or no such card.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise ArgumentError(
            f"[tensorrt] no driver of an NVIDIA card here ({error}); engines are built on the "
            "machine that runs them. adfast export PLAN --target tensorrt writes the network for "
            "it anywhere"
        ) from None

    def call(function: str, *args: Any) -> None:
        status = getattr(driver, function)(*args)
        if status:
            raise ArgumentError(f"[tensorrt] {function} of the driver failed with status {status}")

    count, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
    call("cuInit", 0)
    call("cuDeviceGetCount", ctypes.byref(count))
    if not 0 <= number < count.value:
        raise ArgumentError(f"[tensorrt] card {number}: this machine has {count.value}")
    call("cuDeviceGet", ctypes.byref(device), number)
    numbers = []
    for attribute in (75, 76):  # compute capability, major and minor
        found = ctypes.c_int()
        call("cuDeviceGetAttribute", ctypes.byref(found), attribute, device)
        numbers.append(found.value)
    name = ctypes.create_string_buffer(256)
    call("cuDeviceGetName", name, len(name), device)
    # The context that CUDA's runtime, and so TensorRT, uses.
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    return Card(name.value.decode(errors="replace"), "{}.{}".format(*numbers))


def import_tensorrt() -> Any:
    """Import TensorRT's Python package.

    Raises:
        ArgumentError: it is missing, or of a major version that is not known here.
    """
    try:
        import tensorrt
    except ImportError as error:
        raise ArgumentError(f"[tensorrt] TensorRT is not here ({error}); {REMEDY}") from None
    major = int(tensorrt.__version__.split(".")[0])
    if major not in MAJORS:
        raise ArgumentError(
            f"[tensorrt] this is TensorRT {tensorrt.__version__}, expected 10 or 11; {REMEDY}"
        )
    return tensorrt


def load_plugins(trt: Any, library: Path) -> None:
    """Make the plugins of libadfast_trt.so known to TensorRT.

    Raises:
        ArgumentError: TensorRT does not take them.
    """
    registry = trt.get_plugin_registry()
    for attempt in range(2):
        if registry.get_creator(PLUGIN, PLUGIN_VERSION, "") is not None:
            return
        if attempt == 0:
            registry.load_library(str(library))
    raise ArgumentError(f"[tensorrt] TensorRT {trt.__version__} does not take {library}")


def build_engine(
    trt: Any,
    network: bytes,
    card: Card,
    *,
    level: int = 3,
    warn: Callable[[str], None] = lambda text: None,
    progress: Callable[[str, int, int], None] = lambda phase, step, steps: None,
) -> Built:
    """Build an engine; takes from half a minute to several.

    Args:
        trt: TensorRT's package, from `import_tensorrt`.
        network: an ONNX file of `adfast.tensorrt.network`.
        card: the current one, from `use_card`.
        level: TensorRT's optimisation level, 0 to 5; from 3 on it times kernels.
        warn: called with TensorRT's warnings.
        progress: called with a phase's name, its step and how many steps it has.

    Raises:
        CompileError: TensorRT does not take the network; its own words follow.
        AdfastError: it could not build the engine.
    """
    errors: list[str] = []

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                errors.append(msg)
            elif severity == trt.ILogger.WARNING:
                warn(msg)

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(phase_name, step + 1, self.steps.get(phase_name, step + 1))
            return True

        def phase_finish(self, phase_name: str) -> None:
            steps = self.steps.pop(phase_name, 1)
            progress(phase_name, steps, steps)

    logger, monitor = Logger(), Monitor()
    builder = trt.Builder(logger)
    # What 10 must be told, and 11 does anyway.
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    definition = builder.create_network(typed)
    parser = trt.OnnxParser(definition, logger)
    if not parser.parse(network):
        said = [parser.get_error(i).desc() for i in range(parser.num_errors)] or errors
        raise CompileError("[tensorrt] TensorRT does not take the network: " + "; ".join(said))
    config = builder.create_builder_config()
    # Products in f32 are those that must not lose digits.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.builder_optimization_level = level
    config.progress_monitor = monitor
    serialised = builder.build_serialized_network(definition, config)
    if serialised is None:
        said = "; ".join(errors[-3:]) or "it gave no reason"
        raise AdfastError(f"[tensorrt] no engine could be built: {said}")
    version = ".".join(trt.__version__.split(".")[:3])
    return Built(bytes(serialised), version, card)
