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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adfast import parity
from adfast._version import __version__
from adfast.benchmark import machine
from adfast.calibrate import (
    DEFAULT_FPR,
    LEVEL,
    MapStatistics,
    best_f1,
    choose_rate,
    describe,
    judge,
    threshold,
)
from adfast.compiler import Compiled, compile_onnx
from adfast.compiler.writer import Golden, GoldenFrame, write_plan
from adfast.errors import AdfastError, ArgumentError, CompileError, DataError
from adfast.files import atomic_path
from adfast.images import check_images, list_images, read_image
from adfast.precision import MIN_SPEARMAN, PRECISIONS, Choice, Trial, choose
from adfast.progress import Track, silent

PARITY_IMAGES = 16
DRIFT_IMAGES = 32
GOLDEN_FRAMES = 3
GOLDEN_SIDE = 512
# Of the good scores, which drift on the line is told from.
QUANTILES = 101
MAX_SIDE = 32768  # of a frame, as the engine takes it
# |map - reference| over the reference's maximum, engine in f32.
WARN_ABOVE = 1e-4
FAIL_ABOVE = 1e-3
# Training images that int8 is calibrated on.
SAMPLES = 64
# A threshold of the largest F1 that calls more good images anomalous is warned about.
F1_FPR_WARNING = 0.1

Log = Callable[[str], None]


@dataclass
class _Source:
    """What is built: its ONNX file, its reference, its good images."""

    onnx: Path
    name: str
    compiled: Compiled
    reference: str
    answers: parity.Answers
    good: _Good
    samples: list[Path] = field(default_factory=list)  # that were trained on


@dataclass
class _Good:
    """The images that the threshold comes from.

    Attributes:
        images: good ones; may be none.
        source: where they are from.
        max_fpr: the rate the threshold is set for; None: by F1, or no threshold.
        labelled: (image, is it defective); empty: the threshold comes from `images`.
        labelled_source: where those are from.
    """

    images: list[Path]
    source: str
    max_fpr: float | None = None
    labelled: list[tuple[Path, bool]] = field(default_factory=list)
    labelled_source: str = ""


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
        created: ISO time for the plan's provenance; now by default.
        log: called with lines for people.
        track: wraps the images of a long step, to show progress: track(items, what).

    Returns:
        {"precision", "calibration", "parity"} as they stand in the plan.

    Raises:
        CompileError: the model cannot be compiled, or the engine's f32 answers differ from the
            reference's by more than 1e-3 of the map's maximum.
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
    _check_writable(output)
    good = _good_images(Path(source), calibrate, threshold_from, max_fpr, say)
    with tempfile.TemporaryDirectory(prefix="adfast-") as scratch:
        made = _open(Path(source), Path(scratch), good, passes_off, say, track)
        provisional = Path(scratch) / "provisional.plan"
        compiled = made.compiled
        compiled.fields.update(tiles)
        write_plan(provisional, compiled.graph, compiled.fields, {}, Golden(), {}, {})
        frames = _parity_frames(made, compiled)
        say(f"comparing with {made.reference} on {len(frames)} images")
        expected = [made.answers(frame) for frame in track(frames, "reference")]
        report, choice = _compare(made, provisional, frames, expected, precision, say, track)
        chosen, graph = choice.precision, choice.graph
        write_plan(provisional, graph, compiled.fields, {}, Golden(), {}, {})
        calibration = _calibrate(made, _load(provisional, chosen), say, track)
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


def _check_writable(output: Path) -> None:
    """Fail before the work, not after it."""
    if output.is_dir():
        raise AdfastError(f"cannot write {output}: it is a folder; name the plan file")
    try:
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise AdfastError(
            f"cannot write {output}: {error.strerror or error}; choose a folder that exists "
            "and that you may write to"
        ) from error


def _good_images(
    source: Path,
    calibrate: str | os.PathLike[str] | None,
    threshold_from: str | os.PathLike[str] | None,
    max_fpr: float | None,
    say: Log,
) -> _Good:
    """Find the images for the threshold and settle its rate, before any work is done."""
    labelled, labelled_source = [], ""
    if threshold_from is not None:
        labelled = labelled_images(threshold_from)
        labelled_source = f"folder {Path(threshold_from).resolve().name}"
    if calibrate is not None:
        good = _Good(list_images([calibrate]), f"folder {Path(calibrate).name}")
    elif source.is_dir():
        from adfast.models import read_run_info

        good = _Good(
            _validation_images(source, read_run_info(source)), "held-out validation images"
        )
    elif labelled:
        good = _Good([path for path, bad in labelled if not bad], f"good ones of {labelled_source}")
    else:
        good = _Good([], "none")
    good.labelled, good.labelled_source = labelled, labelled_source
    check_images([*good.images, *(path for path, _ in labelled)], "images for the threshold")
    count = sum(not bad for _, bad in labelled) if labelled else len(good.images)
    if max_fpr is not None or (good.images and not labelled):
        # Without images a rate that makes no sense is refused all the same.
        good.max_fpr = choose_rate(count if count else 10**9, max_fpr)
    if max_fpr is None and good.max_fpr is not None and good.max_fpr > DEFAULT_FPR:
        say(
            f"false-positive rate {good.max_fpr:.4g}: the smallest that {count} good images can "
            f"show ({round(1 / DEFAULT_FPR)} or more would show {DEFAULT_FPR:g}, the default)"
        )
    return good


def labelled_images(folder: str | os.PathLike[str]) -> list[tuple[Path, bool]]:
    """List labelled images, (path, is it defective), of a folder with good/ and <defect>/.

    Args:
        folder: it, or one whose sub-folder test/ is it.

    Raises:
        DataError: there are no good or no defective images.
    """
    root = Path(folder)
    root = root / "test" if (root / "test").is_dir() else root
    classes = sorted(p for p in root.glob("*") if p.is_dir() and not p.name.startswith("."))
    found = [(path, part.name != "good") for part in classes for path in list_images([part])]
    defective = sum(bad for _, bad in found)
    if not defective or defective == len(found):
        raise DataError(
            f"{folder}: {len(found) - defective} good and {defective} defective images; a "
            "threshold from labelled images needs both, in good/ and in <defect>/ (or test/good, "
            "...)"
        )
    return found


def _open(
    source: Path, scratch: Path, good: _Good, passes_off: Sequence[str], say: Log, track: Track
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
    images = (read_image(good[index]) for index in _spread(len(good), count))
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


def _disturbed(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Copy a frame, a piece of it pasted to another place with its brightness changed."""
    height, width = frame.shape[:2]
    h, w = (max(1, int(side * rng.uniform(0.05, 0.3))) for side in (height, width))
    (y, x), (v, u) = (
        (int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)))
        for _ in range(2)
    )
    patch = frame[v : v + h, u : u + w].astype(np.float64) * rng.uniform(0.4, 1.6)
    copy = frame.copy()
    copy[y : y + h, x : x + w] = np.clip(patch, 0, 255).astype(np.uint8)
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
    report: dict[str, Any] = {
        "reference": made.reference,
        "images": len(frames),
        "generated": not made.good.images,
        "engine_f32": parity.difference(expected, _answers(exact, frames)),
        "machine": f"{machine()['processor']}, {info['isa']}, {info['threads']} threads",
    }
    if made.reference == "pytorch":
        runtime = parity.from_onnxruntime(made.onnx, made.compiled)
        if runtime is not None:
            report["onnxruntime"] = parity.difference(expected, map(runtime, frames))
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
    choice = choose(_trial(made, plan.parent, exact, frames, expected, track), precision)
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
    good = made.good.images
    if good:
        images = [read_image(good[index]) for index in _spread(len(good), DRIFT_IMAGES)]
    else:
        images = generated_frames(DRIFT_IMAGES, *made.compiled.fields["frame.resize"])
    rng = np.random.default_rng(0)
    # Good images alone score nearly alike; a ranking needs some that do not.
    images += [_disturbed(image, rng) for image in images]
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
    )


def _spread(count: int, wanted: int) -> list[int]:
    """Take up to `wanted` of `count` places, evenly."""
    if count == 0:
        return []
    return [int(i) for i in np.unique(np.linspace(0, count - 1, wanted).round().astype(int))]


def _answers(engine: Any, frames: list[np.ndarray]) -> list[parity.Answer]:
    results = [engine.predict(frame) for frame in frames]
    return [(result.score, result.network_map) for result in results]


def _calibrate(made: _Source, engine: Any, say: Log, track: Track) -> dict[str, Any]:
    """Make the plan's section "calibration"."""
    good = made.good
    table: dict[str, Any] = {
        "images": len(good.images),
        "source": good.source,
        "precision": engine.info["precision"],
    }
    scale = made.compiled.metadata.get("alpha_scale")
    if scale:
        table["alpha_scale"] = [float(value) for value in scale]
    if not good.images:
        say("not calibrated: no good images (--calibrate DIR); the plan gives scores, no verdicts")
        return table
    say(f"calibrating on {len(good.images)} images ({good.source})")
    scores: dict[Path, float] = {}
    whole = "tile.size" not in made.compiled.fields  # or no image was larger than a tile
    maps = MapStatistics(len(good.images))
    for path in track(good.images, "calibration"):
        result = engine.predict(read_image(path))
        scores[path] = result.score
        inside = result.map[result.inspected.slices]
        maps.add(inside if result.network_map is None else result.network_map)
        whole |= result.network_map is None
    if not whole:
        say(
            "warning: no image for the threshold is larger than a tile: it is for single tiles, "
            "and a frame of many is called anomalous more often; give whole frames with --calibrate"
        )
    values = np.array(list(scores.values()))
    table |= {
        "score.min": float(values.min()),
        "score.mean": float(values.mean()),
        "score.std": float(values.std()),
        "score.max": float(values.max()),
        "score.quantiles": np.quantile(values, np.linspace(0, 1, QUANTILES)).tolist(),
        "map.mean": maps.mean(),
        "map.max": maps.quantile(0.999),
    }
    if good.labelled:
        say(f"threshold from {len(good.labelled)} labelled images ({good.labelled_source})")
        for path, _ in track(good.labelled, "labelled images"):
            if path not in scores:
                scores[path] = engine.predict(read_image(path)).score
        labels = np.array([bad for _, bad in good.labelled])
        values = np.array([scores[path] for path, _ in good.labelled])
    else:
        labels = np.zeros(values.size, bool)
    if good.max_fpr is None:
        limit, rule = best_f1(labels, values), "largest F1 on labelled images"
    else:
        limit = threshold(values[~labels], good.max_fpr)
        rule = "false-positive rate on good images"
        table["max_fpr"] = float(good.max_fpr)
    table |= {
        "threshold": limit.value,
        "rule": rule,
        "expected_fpr": limit.expected_fpr,
        "fpr.low": limit.fpr[0],
        "fpr.high": limit.fpr[1],
        "level": LEVEL,
    }
    table |= {
        f"threshold.{end}": float(value)
        for end, value in (("low", limit.low), ("high", limit.high))
        if value is not None
    }
    if good.labelled:
        seen = asdict(judge(labels, values, limit.value))
        table |= {"labelled.source": good.labelled_source}
        table |= {f"labelled.{name}": value for name, value in seen.items()}
    for line in describe(table):
        say("  " + line)
    if good.max_fpr is None and limit.expected_fpr > F1_FPR_WARNING:
        say(
            f"warning: at the largest F1, {100 * limit.expected_fpr:.0f} % of the labelled good "
            "images are called anomalous (F1 counts misses against the share of defective images, "
            f"here {100 * labels.mean():.0f} %); --max-fpr RATE bounds them"
        )
    return table


def _golden(
    made: _Source,
    frames: list[np.ndarray],
    expected: list[parity.Answer],
    report: dict[str, Any],
) -> Golden:
    """Take the least, the middle and the most anomalous of the compared frames."""
    order = np.argsort([score for score, _ in expected], kind="stable")
    picked = dict.fromkeys(int(order[at]) for at in (0, len(order) // 2, len(order) - 1))
    golden = [
        GoldenFrame(frames[i].reshape(*frames[i].shape[:2], -1), *expected[i]) for i in picked
    ]

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
