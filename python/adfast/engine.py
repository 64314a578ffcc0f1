"""Loading a plan and running frames through it. Needs numpy and the compiled module only."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from adfast._native import _core
from adfast._version import __version__
from adfast.devices import library_folders
from adfast.errors import ArgumentError, FrameError, PlanError
from adfast.result import Box, Result
from adfast.stream import Stream, StreamResult, open_stream

if TYPE_CHECKING:
    from adfast.signing import PublicKey

#: The names of GenICam's PFNC that frames can have.
PIXEL_FORMATS: tuple[str, ...] = _core.pixel_formats


class Engine:
    """A loaded plan.

    Any number of engines may live in a process, and one engine may be used from many threads: calls
    on the same engine take turns. The GIL is released while a frame is computed. The same plan,
    machine and precision give the same bits every time, alone or in a batch.
    """

    def __init__(self, path: str | os.PathLike[str], core: _core.Engine, plan: dict[str, Any]):
        """Use `adfast.load`."""
        self._core = core
        self._path = os.fspath(path)
        self._plan = plan
        self._threshold = plan["calibration"].get("threshold")

    def predict(
        self,
        image: Any,
        *,
        pixel_format: str = "",
        roi: tuple[int, int, int, int] | None = None,
        ignore: Any = None,
    ) -> Result:
        """Inspect one frame.

        Args:
            image: uint8 array (H, W) or (H, W, 3) with any strides, read-only too; or the path of
                an image file, one of 16 bits a sample for "Mono10", "Mono12" and "Mono16"; or, for
                an engine on a card, an array on that card with `__cuda_array_interface__` (torch,
                CuPy) and rows without gaps, which is read where it lies, after the work of the
                stream it names (the default one if it names none, as torch's). Each side from 1 to
                32768.
            pixel_format: a name of GenICam's PFNC (`adfast.PIXEL_FORMATS`): "BGR8" as OpenCV reads,
                "Mono10", "Mono12", "Mono16" for uint16 (H, W), "BayerRG8" and its like for a
                mosaic (H, W). Empty: uint8, "RGB8" or "Mono8" by the shape. Values span all the
                bits that the format has, whatever the image holds.
            roi: (x, y, width, height), what is inspected as if it were the whole frame. The map
                keeps the frame's size and is 0 elsewhere.
            ignore: bool or uint8 (H, W), what does not count: there the map is 0, and the score is
                that of the rest, by the plan's own rule. The network still sees these pixels.

        Raises:
            FrameError: wrong dtype, shape or channel count, or an unreadable file; a roi that does
                not lie in the frame; an `ignore` of another size.
            ArgumentError: an unknown pixel format; `ignore` for a plan of a foreign model whose
                score follows no rule that the plan names.
            AdfastError: the result is not a finite number.
        """
        return self._result(
            self._core.predict(_as_array(image, pixel_format), pixel_format, roi, _as_mask(ignore))
        )

    def predict_batch(
        self,
        images: Iterable[Any],
        *,
        pixel_format: str = "",
        roi: tuple[int, int, int, int] | None = None,
        ignore: Any = None,
    ) -> list[Result]:
        """Inspect frames, of any sizes; side by side where the plan runs in two lanes.

        Arguments and errors are those of `predict`; the results are the same to the last bit.
        """
        arrays = [_as_array(image, pixel_format) for image in images]
        raw = self._core.predict_batch(arrays, pixel_format, roi, _as_mask(ignore))
        return [self._result(each) for each in raw]

    def stream(
        self,
        *,
        capacity: int = 4,
        policy: str = "block",
        deadline_ms: float | None = None,
        with_map: bool = True,
        callback: Callable[[StreamResult], None] | None = None,
    ) -> Stream:
        """Open a stream: frames are queued as they come, results follow in order.

        Args:
            capacity: frames that wait at most, and results that wait to be polled; 1 to 4096.
            policy: what becomes of a frame that comes when the queue is full: "block", `submit`
                waits; "drop_oldest", the frame that waited longest makes room; "drop_newest", the
                new one is dropped; "error", `submit` raises StreamFull.
            deadline_ms: a frame that waited longer is dropped; None: none is.
            with_map: results have maps.
            callback: called with every `StreamResult`, one after the other, from a thread of the
                stream; without it results wait for `Stream.poll`.

        Raises:
            ArgumentError: one of them is out of range.
        """
        return open_stream(self, self._core, capacity, policy, deadline_ms, with_map, callback)

    @property
    def threshold(self) -> float | None:
        """The plan's threshold on the score; None for a plan that was not calibrated."""
        return self._threshold

    @property
    def counters(self) -> dict[str, Any]:
        """What the engine has done since it was loaded; warm-up and self-test do not count.

        "frames", "anomalous", "failures"; "latency_ms" with "mean", "p50", "p90", "p99", "p99.9"
        and "max" (quantiles within a tenth); "drift": "distance", that of Kolmogorov and Smirnov
        between the last 256 scores that are not above the threshold and those of calibration,
        "limit", what of it raises the "alarm" (an unchanged line does so at one look of a
        thousand). They are NaN where the plan has no such scores, or before the 32nd frame.
        """
        return self._core.counters()

    def metrics_text(self, stream: Stream | None = None) -> str:
        """Return all counters, and a stream's, as a page in Prometheus' text format."""
        return self._core.metrics_text(None if stream is None else stream._core)

    def warmup(self, n: int = 3) -> None:
        """Run `n` grey frames of the network's own size, so that the first real one is not slow."""
        self._core.warmup(n)

    def self_test(self) -> dict[str, Any]:
        """Run the plan's golden frames and compare with the maps the trained model gave.

        Returns:
            {"passed": bool, "precision": str, "tolerance": float, "frames": [{"score": float,
            "expected_score": float, "map_error": float}, ...]}. `map_error` is the largest
            difference from the expected map, divided by that map's maximum; a frame passes when it
            is at most `tolerance`, and so is the score's difference, divided by the same maximum.
        """
        precision = self.info["precision"]
        # f16 rounds to three bits more than bf16, of which plans know.
        known = "bf16" if precision == "f16" else precision
        tolerance = self._plan["golden_info"].get(f"tolerance.{known}")
        frames = []
        for golden in self._plan["golden"]:
            result = self._result(
                self._core.predict(golden["frame"], golden["pixel_format"], counted=False)
            )
            peak = float(max(golden["map"].max(), 1e-30))
            error = float(np.abs(result.network_map - golden["map"]).max()) / peak
            frames.append(
                {
                    "score": result.score,
                    "expected_score": golden["score"],
                    "map_error": error,
                    "score_error": abs(result.score - golden["score"]) / peak,
                }
            )
        if tolerance is None or not frames:
            raise PlanError(f"{self._path}: holds no golden frames for precision {precision}")
        passed = all(max(f["map_error"], f["score_error"]) <= tolerance for f in frames)
        return {
            "passed": passed,
            "precision": precision,
            "tolerance": tolerance,
            "frames": frames,
        }

    def profile(self, image: Any, *, pixel_format: str = "") -> list[dict[str, Any]]:
        """Inspect one frame and return its steps in the order they began.

        Each is {"op", "name", "kernel", "index", "lane", "begin_ms", "ms", "gflop", "bytes"};
        `name` is the node's, or `A + B` of two nodes that are computed in one step; `kernel` is the
        implementation that was chosen, `index` the step's number, the same in every
        frame, `lane` the thread it ran on; `bytes` are those it reads and writes, weights included.
        """
        return self._core.profile(_as_array(image, pixel_format), pixel_format)

    def _observe(
        self,
        image: Any,
        ranges: dict[str, tuple[float, float]],
        bins: int,
        pixel_format: str = "",
    ) -> dict[str, tuple[float, float, np.ndarray]]:
        """Look at values of the graph on a frame; for `adfast.quantize`.

        Args:
            image: as for `predict`.
            ranges: of what is counted, by the value's name.
            bins: into which each range is split evenly; 0: nothing is counted.
            pixel_format: as for `predict`.

        Returns:
            Per value its least and largest element and the counts; elements outside the range are
            counted at its ends.
        """
        return self._core.observe(_as_array(image, pixel_format), ranges, bins, pixel_format)

    @property
    def info(self) -> dict[str, Any]:
        """What runs where: plan, model, precision, isa, threads, sizes, calibration, versions."""
        fields = self._plan["fields"]
        return {
            **self._core.describe(),
            "plan": self._path,
            "plan_version": self._plan["version"],
            "plan_precision": fields.get("precision"),
            "model": fields.get("model"),
            "name": fields.get("name"),
            "threshold": self._threshold,
            "max_fpr": self._plan["calibration"].get("max_fpr"),
            "calibration": dict(self._plan["calibration"]),
            "native_bf16": _core.native_bf16(),
            "adfast": __version__,
            "onednn": _core.onednn_version,
        }

    def memory(self, height: int | None = None, width: int | None = None) -> dict[str, int]:
        """Say how many bytes this engine adds to the resident memory of its process.

        Args:
            height: of the frames, in pixels; by default what the plan resizes to.
            width: likewise.

        Returns:
            "weights", packed; "frame", what a frame in work holds; "loading" and "running", at
            most while the plan is loaded and from then on, one frame of this size at a time with
            its map. The frame itself is the caller's. All 0 on a card, whose memory is its own.

        Raises:
            ArgumentError: a side is out of range.
        """
        rows, columns = self.info["resize"]
        return self._core.memory(
            rows if height is None else height, columns if width is None else width
        )

    def __repr__(self) -> str:
        """Name the plan and how it runs."""
        info = self.info
        return (
            f"adfast.Engine({self._path!r}, model={info['model']!r}, "
            f"device={info['device']!r}, precision={info['precision']!r}, isa={info['isa']!r}, "
            f"threads={info['threads']})"
        )

    def _result(self, raw: dict[str, Any]) -> Result:
        raw["inspected"] = Box(*raw["inspected"])
        return Result(threshold=self._threshold, **raw)


def load(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    threads: int = 0,
    frames_at_once: int = 0,
    precision: str | None = None,
    tactics: str | os.PathLike[str] | None = None,
    public_key: PublicKey | None = None,
    rebuild: bool = False,
) -> Engine:
    """Load a plan: check every byte of it, pack its weights, plan its memory.

    Args:
        path: a plan file written by `adfast build`.
        device: "cpu"; "cuda" or "cuda:N", an NVIDIA card with the engine's own kernels; "tensorrt"
            or "tensorrt:N", a card with the TensorRT engine that `adfast build --target tensorrt`
            put into the plan; or "auto", the first of TensorRT, a card and the CPU that can be
            used: `info` says which, and in "device_note" why it is not the one before.
        threads: processor threads to use, 1 to 1024; 0 takes all that this process may use. A
            network with two branches runs them side by side, and shares further threads among
            them; one that is a chain works with all threads inside its steps.
        frames_at_once: on the CPU, how many frames of a batch or a stream, or tiles of a frame, are
            in work at once, each with its share of the threads: 1 to their number; 0 takes one for
            each branch of the network. As many as there are threads may raise the throughput of a
            chain; each frame then takes longer, and a single one has but its share. The results
            are the same.
        precision: "f32", "bf16", "f16" (on a card), or "int8" (on the CPU, or of a TensorRT
            engine) for plans that are quantised; None takes the plan's own, or f32 where the
            processor computes bf16 no faster, and bf16 for a quantised plan on a card. A TensorRT
            engine has one precision and takes no other.
        tactics: a file that `adfast tune` wrote for this plan on this machine: which implementation
            each step uses. None: the engine's own estimates, which depend on the processor alone.
        public_key: the PEM file or the 32 bytes of an Ed25519 key: only a plan that its private
            key signed is loaded (`adfast sign`). It is checked before the plan is parsed, on the
            bytes that are then used. None: any plan. Needs adfast[sign].
        rebuild: where the plan's TensorRT engine does not fit this machine, and TensorRT's builder
            is here, build it anew for this engine alone, which takes minutes; the file stays as it
            is. `adfast build PLAN --target tensorrt` does so once for all.

    Raises:
        PlanError: the file is damaged, altered, too new, or holds an op this version does not know;
            or it is not signed with the key that was given.
        ArgumentError: an unknown device or precision, or one that this machine lacks; more frames
            at once than threads; or the tactics file holds something else.
        AdfastError: the file cannot be opened.
    """
    text = os.fspath(path)
    check = None
    if public_key is not None:
        from adfast.signing import check_of

        check = check_of(public_key, text)
    plan = _core.Plan(text, check)

    def loaded(plan: Any) -> Engine:
        core = _core.Engine(
            plan,
            threads,
            precision or "",
            tactics="" if tactics is None else os.fspath(tactics),
            device=device,
            folders=[] if device == "cpu" else library_folders(),
            frames_at_once=frames_at_once,
        )
        return Engine(text, core, plan.contents())

    try:
        engine = loaded(plan)
    except ArgumentError as error:
        made = _rebuilt(text, plan, device, str(error)) if rebuild else None
        if made is None:
            raise
        return loaded(made)
    made = _rebuilt(text, plan, device, engine.info["device_note"]) if rebuild else None
    return engine if made is None else loaded(made)


def _rebuilt(path: str, plan: Any, device: str, misfit: str) -> Any:
    """Build a plan's TensorRT engine anew where that is what does not fit; None where it is not."""
    if not misfit.startswith("[tensorrt]"):
        return None
    from adfast.tensorrt.target import rebuilt

    return rebuilt(path, plan, device)


def set_log(
    log: logging.Logger | Callable[[int, str], None] | None, level: int = logging.INFO
) -> None:
    """Say who hears of what happens in the engine, in the whole process; the default is no one.

    Args:
        log: a logger; or a function of a level of `logging` and a line, called from any thread;
            or None.
        level: what is below is not said: DEBUG; INFO: loaded, opened, closed; WARNING: runs on the
            CPU, frames dropped (one line a second), scores drift; ERROR: a frame failed.
    """
    say = log.log if isinstance(log, logging.Logger) else log
    levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
    least = sum(level > each for each in levels[:-1])
    forward = None if say is None else (lambda severity, line: say(levels[severity], line))
    _core.set_log(forward, least)


def _as_mask(ignore: Any) -> np.ndarray | None:
    return None if ignore is None else np.asarray(_as_array(ignore))


def _as_array(image: Any, pixel_format: str = "") -> Any:
    if isinstance(image, (str, os.PathLike)):
        from adfast.images import read_image

        return read_image(image, pixel_format)
    # Arrays on a card stay there.
    if isinstance(image, np.ndarray) or hasattr(image, "__cuda_array_interface__"):
        return image
    if hasattr(image, "__array_interface__") or hasattr(image, "__array__"):
        return np.asarray(image)
    if hasattr(image, "__dlpack__"):
        try:
            return np.from_dlpack(image)
        except (BufferError, RuntimeError, TypeError) as error:
            raise FrameError(
                f"[predict] this {type(image).__name__} does not hand its memory to the CPU by "
                f"DLPack: {error}"
            ) from error
    try:
        return np.asarray(memoryview(image))
    except TypeError:
        raise FrameError(
            f"[predict] image is a {type(image).__name__}, expected a uint8 array "
            "(height, width) or (height, width, 3), or the path of an image file"
        ) from None
