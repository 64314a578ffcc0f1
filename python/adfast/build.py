"""From a training run or an ONNX file to a plan that was compiled, calibrated and compared.

`build` compiles, runs the result beside the reference (PyTorch for a run, ONNX Runtime for an ONNX
file), chooses the precision, takes the threshold from good images that were not trained on (or from
labelled images, where asked to), and writes the plan with golden frames by which any machine can
test itself later. What the images cannot show is refused first, before the long part.
"""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adfast import parity
from adfast._version import __version__
from adfast.benchmark import machine
from adfast.calibration import Images, Log, images_of, measure
from adfast.compiler import Compiled, compile_onnx
from adfast.compiler.writer import Golden, GoldenFrame, write_plan
from adfast.errors import ArgumentError, CompileError, DataError
from adfast.files import atomic_path, check_writable
from adfast.images import largest_value, read_image, to_255
from adfast.precision import MIN_SPEARMAN, PRECISIONS, Choice, Trial, choose
from adfast.progress import Track, silent

PARITY_IMAGES = 16
DRIFT_IMAGES = 32
GOLDEN_FRAMES = 3
GOLDEN_SIDE = 512
MAX_SIDE = 32768  # of a frame, as the engine takes it
# |map - reference| over the reference's maximum, engine in f32.
WARN_ABOVE = 1e-4
FAIL_ABOVE = 1e-3
# Training images that int8 is calibrated on.
SAMPLES = 64


@dataclass
class _Source:
    """What is built: its ONNX file, its reference, its good images."""

    onnx: Path
    name: str
    compiled: Compiled
    reference: str
    answers: parity.Answers
    good: Images
    samples: list[Path] = field(default_factory=list)  # that were trained on


def build(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precision: str = "auto",
    calibrate: str | os.PathLike[str] | None = None,
    max_fpr: float | None = None,
    threshold_from: str | os.PathLike[str] | None = None,
    tile: tuple[int, int] | None = None,
    overlap: int | None = None,
    passes_off: Sequence[str] = (),
    pixel_format: str = "",
    created: str = "",
    log: Log | None = None,
    track: Track = silent,
) -> dict[str, Any]:
    """Build a plan.

    Args:
        source: the folder of a training run, or an .onnx file.
        output: the plan file; written last, whole or not at all.
        precision: "f32", "bf16", "int8", or "auto": the fastest of them on this machine whose
            scores rank images as those of f32 do (see `adfast.precision`).
        calibrate: folder of good images for the threshold; a run's own validation images by
            default. An ONNX file without them gives a plan without a threshold.
        max_fpr: false-positive rate on good images that the threshold is set for, in (0, 1); the
            images must be able to show it (see `calibrate.choose_rate`). None: 0.01, or the
            smallest rate they can show.
        threshold_from: folder of labelled images, good/ and <defect>/ (or test/ with those inside),
            to take the threshold from: the one of the largest F1, or with `max_fpr` the one that
            keeps this rate on the good ones among them.
        tile: (height, width) in pixels: a frame larger than that is inspected in tiles of this
            size, each as the network was trained to see whole images, and their maps are joined.
        overlap: pixels that neighbouring tiles share at least, at most half of a tile; an eighth
            of the shorter side by default.
        passes_off: compiler passes to leave out.
        pixel_format: of images of 16 bits a sample, see `adfast.images.read_image`. A run knows
            that of its own, and `calibrate` and `threshold_from` must have the same.
        created: ISO time for the plan's provenance; now by default.
        log: called with lines for people.
        track: wraps the images of a long step, to show progress: track(items, what).

    Returns:
        {"precision", "calibration", "parity"} as they stand in the plan.

    Raises:
        CompileError: the model cannot be compiled, or the engine's f32 answers differ from the
            reference's by more than 1e-3 of the map's maximum.
        ModelError: `pixel_format` is not that of the run's images.
        DataError, FrameError: the calibration images are missing, unreadable or too few.
        AdfastError: the output cannot be written.
    """
    say = log or (lambda text: None)
    if precision not in ("auto", *PRECISIONS):
        raise ArgumentError(
            f"[build] precision is {precision!r}, expected auto, {', '.join(PRECISIONS)}"
        )
    tiles = tile_fields(tile, overlap)
    output = Path(output)
    check_writable(output)
    good = _good_images(Path(source), calibrate, threshold_from, max_fpr, say, pixel_format)
    with tempfile.TemporaryDirectory(prefix="adfast-") as scratch:
        made = _open(Path(source), Path(scratch), good, passes_off, say, track)
        provisional = Path(scratch) / "provisional.plan"
        compiled = made.compiled
        compiled.fields.update(tiles)
        write_plan(provisional, compiled.graph, compiled.fields, {}, Golden(), {}, {})
        frames = _parity_frames(made, compiled)
        say(f"comparing with {made.reference} on {len(frames)} images")
        inputs = [to_255(frame, good.pixel_format) for frame in frames]
        expected = [made.answers(frame) for frame in track(inputs, "reference")]
        report, choice = _compare(made, provisional, frames, expected, precision, say, track)
        chosen, graph = choice.precision, choice.graph
        write_plan(provisional, graph, compiled.fields, {}, Golden(), {}, {})
        calibration = measure(
            _load(provisional, chosen),
            good,
            alpha_scale=compiled.metadata.get("alpha_scale") or (),
            say=say,
            track=track,
        )
    fields = {**compiled.fields, "precision": chosen}
    golden = _golden(made, frames, expected, report)
    with atomic_path(output) as temporary:
        provenance = _provenance(made, created)
        write_plan(temporary, graph, fields, calibration, golden, report, provenance)
        test = _load(temporary, chosen).self_test()
        if not test["passed"]:
            raise CompileError(f"the finished plan fails its own golden frames: {test}")
    say(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB, precision {chosen})")
    return {"precision": chosen, "calibration": calibration, "parity": report}


def tile_fields(tile: tuple[int, int] | None, overlap: int | None) -> dict[str, Any]:
    """Make the fields of a plan that inspects large frames in tiles; none without.

    Raises:
        ArgumentError: a side or the overlap is out of range.
    """
    if tile is None:
        if overlap is not None:
            raise ArgumentError("[build] an overlap needs tiles: give their size with --tile")
        return {}
    shorter = min(tile)
    overlap = shorter // 8 if overlap is None else overlap
    if shorter < 16 or max(tile) > MAX_SIDE:
        raise ArgumentError(
            f"[build] tiles of {tile[0]}x{tile[1]}, expected 16 to {MAX_SIDE} a side"
        )
    if not 0 <= overlap <= shorter // 2:
        raise ArgumentError(
            f"[build] an overlap of {overlap} pixels, expected 0 to {shorter // 2}, half of a tile"
        )
    return {"tile.size": list(tile), "tile.overlap": overlap}


def _within_tile(frame: np.ndarray, fields: dict[str, Any]) -> np.ndarray:
    """Cut the middle of a frame that would be inspected in tiles, to compare single answers."""
    if "tile.size" not in fields:
        return frame
    height, width = (
        min(side, most) for side, most in zip(frame.shape[:2], fields["tile.size"], strict=True)
    )
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width]


def _good_images(
    source: Path,
    calibrate: str | os.PathLike[str] | None,
    threshold_from: str | os.PathLike[str] | None,
    max_fpr: float | None,
    say: Log,
    pixel_format: str,
) -> Images:
    """Find the images for the threshold: those that were asked for, or the run's own."""
    chosen: Any = calibrate
    if source.is_dir():
        from adfast.models import read_run_info, run_pixel_format

        info = read_run_info(source)
        pixel_format = run_pixel_format(source, info, pixel_format)
        if calibrate is None:
            chosen = (_validation_images(source, info), "held-out validation images")
    return images_of(chosen, threshold_from, max_fpr, say, pixel_format)


def _open(
    source: Path, scratch: Path, good: Images, passes_off: Sequence[str], say: Log, track: Track
) -> _Source:
    def compiled(path: Path, name: str) -> Compiled:
        say(f"compiling {name}")
        result = compile_onnx(
            path, name=name, disable=passes_off, log=lambda line: say("  " + line)
        )
        say(f"  {len(result.graph.nodes)} nodes")
        return result

    if source.is_dir():
        from adfast.export import export_onnx, provenance
        from adfast.models import load_run

        model, info = load_run(source, track=track, log=say)
        model = model.eval()
        name = source.resolve().name
        say(f"exporting {name}")
        info = {**info, "provenance": provenance(source, info)}
        path = export_onnx((model, info), scratch / "model.onnx")
        answers = parity.from_run(model)
        made = compiled(path, name)
        return _Source(path, name, made, "pytorch", answers, good, _training_images(info))
    result = compiled(source, source.stem)
    reference, answers = parity.from_onnx(source, result)
    return _Source(source, source.stem, result, reference, answers, good)


def _validation_images(run: Path, info: dict[str, Any]) -> list[Path]:
    """Find the good images that the run set apart."""
    data = info.get("data") or {}
    paths = [Path(data.get("root", ""), name) for name in data.get("validation", ())]
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        what = (
            f"{len(missing)} of its {len(paths)} validation images are missing, first {missing[0]}"
        )
        raise DataError(
            f"{run}: {what if missing else 'the run names no validation images'}; "
            "give good images that were not trained on with --calibrate DIR"
        )
    return paths


def _training_images(info: dict[str, Any]) -> list[Path]:
    """Find the images that a run was trained on, those that are still there."""
    data = info.get("data") or {}
    paths = [Path(data.get("root", ""), name) for name in data.get("train", ())]
    return [path for path in paths if path.is_file()]


def _parity_frames(made: _Source, compiled: Compiled) -> list[np.ndarray]:
    # onnx's evaluator takes minutes where the others take a second.
    count = GOLDEN_FRAMES if made.reference == "onnx.reference" else PARITY_IMAGES
    if not made.good.images:
        return generated_frames(count, *compiled.fields["frame.resize"])
    good = made.good.images
    which = _spread(len(good), count)
    images = (read_image(good[index], made.good.pixel_format) for index in which)
    return [_decimated(_within_tile(image, compiled.fields)) for image in images]


def generated_frames(count: int, height: int, width: int) -> list[np.ndarray]:
    """Make uint8 frames (height, width, 3) for a model that came without images."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(count):
        coarse = rng.uniform(0, 255, (-(-height // 16), -(-width // 16), 3))
        frame = np.kron(coarse, np.ones((16, 16, 1)))[:height, :width]
        frame = frame * 0.5 + 64 + rng.normal(0, 8, frame.shape)
        frames.append(_disturbed(np.clip(frame, 0, 255).astype(np.uint8), rng))
    return frames


def _disturbed(frame: np.ndarray, rng: np.random.Generator, white: int = 255) -> np.ndarray:
    """Copy a frame, a piece of it pasted to another place with its brightness changed."""
    height, width = frame.shape[:2]
    h, w = (max(1, int(side * rng.uniform(0.05, 0.3))) for side in (height, width))
    (y, x), (v, u) = (
        (int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)))
        for _ in range(2)
    )
    patch = frame[v : v + h, u : u + w].astype(np.float64) * rng.uniform(0.4, 1.6)
    copy = frame.copy()
    copy[y : y + h, x : x + w] = np.clip(patch, 0, white).astype(frame.dtype)
    return copy


def _decimated(frame: np.ndarray) -> np.ndarray:
    """Keep every n-th row and column, so that golden frames stay small."""
    step = -(-max(frame.shape[:2]) // GOLDEN_SIDE)
    return np.ascontiguousarray(frame[::step, ::step])


def _load(path: Path, precision: str) -> Any:
    import adfast

    return adfast.load(path, device="cpu", precision=precision)


def _compare(
    made: _Source,
    plan: Path,
    frames: list[np.ndarray],
    expected: list[parity.Answer],
    precision: str,
    say: Log,
    track: Track,
) -> tuple[dict[str, Any], Choice]:
    """Make the parity report and choose the precision to build for."""
    exact = _load(plan, "f32")
    info = exact.info
    trial = _trial(made, plan.parent, exact, frames, expected, track)
    pixel_format = made.good.pixel_format
    report: dict[str, Any] = {
        "reference": made.reference,
        "images": len(frames),
        "generated": not made.good.images,
        "engine_f32": trial.error(exact),
        "machine": f"{machine()['processor']}, {info['isa']}, {info['threads']} threads",
    }
    if made.reference == "pytorch":
        runtime = parity.from_onnxruntime(made.onnx, made.compiled)
        if runtime is not None:
            report["onnxruntime"] = parity.difference(
                expected, (runtime(to_255(frame, pixel_format)) for frame in frames)
            )
    for who in ("onnxruntime", "engine_f32"):
        if who in report:
            say(f"  {who}: map within {report[who]['map_max_rel']:.1e} of its maximum")
    error = report["engine_f32"]["map_max_rel"]
    if error > FAIL_ABOVE:
        raise CompileError(
            f"the engine in f32 differs from {made.reference} by {error:.2e} of the map's "
            f"maximum, at most {FAIL_ABOVE:g} is accepted; find the pass that does it with "
            "--passes-off NAME,..."
        )
    if error > WARN_ABOVE:
        say(f"warning: f32 parity is {error:.2e}, {WARN_ABOVE:g} or less is usual")
    choice = choose(trial, precision)
    report |= choice.report
    report["precision"] = {"chosen": choice.precision, "reason": choice.reason}
    say(f"precision {choice.precision}: {choice.reason}")
    bf16 = choice.report.get("engine_bf16")
    if choice.precision == "bf16" and bf16["score_spearman"] < MIN_SPEARMAN:
        say(f"warning: a rank correlation of {MIN_SPEARMAN} or more is expected of bf16")
    return report, choice


def _trial(
    made: _Source,
    folder: Path,
    exact: Any,
    frames: list[np.ndarray],
    expected: list[parity.Answer],
    track: Track,
) -> Trial:
    good, pixel_format = made.good.images, made.good.pixel_format
    if good:
        which = _spread(len(good), DRIFT_IMAGES)
        images = [read_image(good[index], pixel_format) for index in which]
    else:
        images = generated_frames(DRIFT_IMAGES, *made.compiled.fields["frame.resize"])
    rng = np.random.default_rng(0)
    # Good images alone score nearly alike; a ranking needs some that do not.
    images += [_disturbed(image, rng, largest_value(pixel_format)) for image in images]
    samples = made.samples or good
    return Trial(
        made.compiled,
        folder,
        exact,
        frames,
        expected,
        images,
        [samples[index] for index in _spread(len(samples), SAMPLES)],
        made.good.labelled,
        track,
        pixel_format,
    )


def _spread(count: int, wanted: int) -> list[int]:
    """Take up to `wanted` of `count` places, evenly."""
    if count == 0:
        return []
    return [int(i) for i in np.unique(np.linspace(0, count - 1, wanted).round().astype(int))]


def _golden(
    made: _Source,
    frames: list[np.ndarray],
    expected: list[parity.Answer],
    report: dict[str, Any],
) -> Golden:
    """Take the least, the middle and the most anomalous of the compared frames."""
    order = np.argsort([score for score, _ in expected], kind="stable")
    picked = dict.fromkeys(int(order[at]) for at in (0, len(order) // 2, len(order) - 1))
    pixel_format, golden = made.good.pixel_format, []
    for i in picked:
        golden.append(GoldenFrame(frames[i], *expected[i], pixel_format))

    # Other processors round in other places: room for that, but none for a wrong kernel.
    def room(who: str) -> float:
        return float(np.clip(2 * report.get(who, {"map_max_rel": 0.05})["map_max_rel"], 0.02, 0.5))

    int8 = room("engine_int8") if report.get("engine_int8", {}).get("passed") else None
    return Golden(golden, FAIL_ABOVE, room("engine_bf16"), made.reference, int8)


def _provenance(made: _Source, created: str) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {
        "adfast": __version__,
        "created": created or now,
        "onnx_sha256": made.compiled.sha256,
        "model": made.compiled.metadata.get("provenance", {}),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for package in ("numpy", "onnx", "onnxruntime", "torch"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
