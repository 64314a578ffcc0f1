"""A plan with a TensorRT engine: made, put into the plan beside the network, and tried there."""

from __future__ import annotations

import datetime
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adfast._version import __version__
from adfast.compiler.graph import Graph
from adfast.compiler.reader import graph_of
from adfast.devices import own_library
from adfast.errors import AdfastError, ArgumentError, CompileError
from adfast.files import atomic_path, atomic_write, check_writable
from adfast.plan_file import TENSORRT, read_sections, table, write_sections
from adfast.tensorrt import builder
from adfast.tensorrt.emitter import PLUGIN_DOMAIN
from adfast.tensorrt.network import PRECISIONS, to_onnx


def default_precision(graph: Graph) -> str:
    """Say what a graph's engine is built in: int8 where it is quantised, else f16."""
    return "int8" if any(node.attrs.get("input_scale") for node in graph.nodes) else "f16"


def _network(
    plan: Any, path: Path, precision: str | None, plugins: bool = False
) -> tuple[bytes, str, bool]:
    """Write a plan's network; return it, its precision, and whether it has plugins."""
    graph = graph_of(plan, path.stem)
    precision = precision or default_precision(graph)
    if precision not in PRECISIONS:
        raise ArgumentError(
            f"[tensorrt] precision is {precision!r}, expected one of {', '.join(PRECISIONS)}"
        )
    model = to_onnx(graph, precision, plugins=plugins)
    has_plugins = any(node.domain == PLUGIN_DOMAIN for node in model.graph.node)
    return model.SerializeToString(), precision, has_plugins


def export_network(
    plan: str | os.PathLike[str], output: str | os.PathLike[str], precision: str | None = None
) -> str:
    """Write a plan's network as a strongly typed ONNX file, for TensorRT's own tools.

    Args:
        plan: the plan.
        output: the .onnx file; see `adfast.tensorrt.network.to_onnx` for its values.
        precision: "f16", "bf16", "int8" or "f32"; None: "int8" for a quantised plan, else "f16".

    Returns:
        The precision.

    Raises:
        PlanError: the plan is damaged.
        CompileError: the precision does not suit the plan.
        AdfastError: the file cannot be written.
    """
    from adfast import _core

    check_writable(Path(output))
    network, precision, _ = _network(_core.Plan(os.fspath(plan)), Path(plan), precision)
    with atomic_write(output) as file:
        file.write(network)
    return precision


def add_engine(
    plan: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precision: str | None = None,
    card: int = 0,
    level: int = 3,
    plugins: bool = False,
    log: Callable[[str], None] = lambda text: None,
    progress: Callable[[str, int, int], None] = lambda phase, step, steps: None,
) -> dict[str, Any]:
    """Write a copy of a plan with a TensorRT engine for a card of this machine.

    The copy is tried with its golden frames before it takes its place. All else in the plan stays
    as it is, byte for byte; a signature is dropped, as it does not vouch for the engine.

    Args:
        plan: the plan; one that has an engine gets the new one instead.
        output: the new plan; may be `plan` itself.
        precision: as for `export_network`.
        card: number of the card, as in device="tensorrt:1".
        level: TensorRT's optimisation level, 0 to 5.
        plugins: take our kernel for halo attention, as a plugin, instead of TensorRT's layers.
        log: called with lines for people.
        progress: as for `adfast.tensorrt.builder.build_engine`.

    Returns:
        {"version", "capability", "card", "precision", "self_test"}.

    Raises:
        PlanError: the plan is damaged.
        ArgumentError: there is no card, or no TensorRT.
        CompileError: TensorRT does not take the network, or the engine's answers to the golden
            frames are beyond the plan's tolerance.
        AdfastError: the engine could not be built, or the file not be written.
    """
    import adfast
    from adfast import _core

    output = Path(output)
    check_writable(output)
    checked = _core.Plan(os.fspath(plan))
    network, precision, plugins = _network(checked, Path(plan), precision, plugins)
    trt = builder.import_tensorrt()
    used = builder.use_card(card)
    if plugins:
        builder.load_plugins(trt, own_library("libadfast_trt.so"))
    log(f"building an engine in {precision} for {used.name}, by TensorRT {trt.__version__}")
    built = builder.build_engine(trt, network, used, level=level, warn=log, progress=progress)
    info = {
        "version": built.version,
        "capability": used.capability,
        "card": used.name,
        "precision": precision,
        "adfast": __version__,
        **({"plugins": 1} if plugins else {}),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    sections = read_sections(checked) | {TENSORRT: engine_section(info, built.data)}
    with atomic_path(output) as temporary:
        write_sections(temporary, sections)
        try:
            test = adfast.load(temporary, device=f"tensorrt:{card}").self_test()
        except AdfastError as error:
            raise CompileError(f"the engine was built and does not run: {error}") from error
        if not test["passed"]:
            raise CompileError(
                f"the engine's answers to the plan's golden frames are off: {test}; take "
                "--engine-precision bf16 or f32"
            )
    log(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")
    return {**info, "self_test": test}


def rebuilt(path: str, plan: Any, device: str) -> Any:
    """Build a plan's engine anew, as it was asked for when the plan got one.

    Args:
        path: of the plan, as it is called.
        plan: the checked `_core.Plan`.
        device: as for `adfast.load`; the number of the card is taken from it.

    Returns:
        A checked `_core.Plan` with the new engine; None where the plan has no engine, or there is
        no builder or no card.
    """
    from adfast import _core

    old = plan.contents().get("tensorrt")
    if old is None:
        return None
    _, _, number = device.partition(":")
    card = int(number) if number.isdigit() else 0
    try:
        builder.import_tensorrt()
        builder.use_card(card)
    except ArgumentError:
        return None
    with tempfile.TemporaryDirectory(prefix="adfast-") as folder:
        made = Path(folder) / Path(path).name
        plugins = bool(old.get("plugins"))
        add_engine(path, made, precision=old["precision"], card=card, plugins=plugins)
        return _core.Plan(str(made))


def engine_section(info: dict[str, Any], engine: bytes) -> bytes:
    """Return the bytes of a plan's section "tensorrt".

    Args:
        info: "version" of TensorRT, "capability" of the card and "precision", as the engine reads
            them, and what else a reader may want to know.
        engine: as TensorRT serialised it.
    """
    return table(info) + struct.pack("<Q", len(engine)) + engine
