"""Choosing what a plan computes in: int8, bf16 or f32.

A precision may be used if it passes the gate: its scores rank images as those of f32 do, and where
there are labelled images it tells good from defective ones as well. Among those that pass,
`choose` takes the fastest on this machine by the clock: what a processor is able to compute in is
not always what it is fast in. What was found goes into the plan.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adfast import parity, quantize
from adfast.calibrate import auroc, spearman
from adfast.compiler import Compiled
from adfast.compiler.graph import Graph
from adfast.compiler.writer import Golden, write_plan
from adfast.errors import CompileError, DataError
from adfast.progress import Track

PRECISIONS = ("f32", "bf16", "int8")
# The gate.
MIN_SPEARMAN = 0.99
MAX_AUROC_CHANGE = 0.003
# Of any pixel, as a fraction of the map's maximum. Larger ones in bf16 are not rounding; in int8
# they are a map of something else, whatever the ranks say, and golden frames could not tell it from
# a wrong kernel.
MAX_MAP_ERROR = {"bf16": 0.05, "int8": 0.25}
# A narrower type has to be this much faster than f32: for less, no error is worth it.
MIN_GAIN = 1.1
# Seconds that a step of the search may take, about; slow models get fewer images.
BUDGET = 60
# Frames that trials of the search are compared on, and rounds of timing.
TRIAL_FRAMES = 8
ROUNDS = 15


@dataclass
class Trial:
    """What precisions are compared on.

    Attributes:
        compiled: the model.
        folder: for plans that are tried; must outlive the trial.
        exact: an engine in f32 of the plan without quantisation.
        frames: images for the map's error.
        expected: the reference's answers to `frames`.
        images: images whose scores are ranked, some with a defect among them.
        samples: files of images that int8 is calibrated on; none: the plan cannot have int8.
        labelled: files with labels (image, is it defective); may be empty.
        track: shows the progress.
        pixel_format: of all images, as for `Engine.predict`.
    """

    compiled: Compiled
    folder: Path
    exact: Any
    frames: Sequence[np.ndarray]
    expected: Sequence[parity.Answer]
    images: Sequence[np.ndarray]
    samples: Sequence[Path]
    labelled: Sequence[tuple[Path, bool]]
    track: Track
    pixel_format: str = ""
    _exact_scores: dict[str, list[float]] = field(default_factory=dict)

    def engine(self, graph: Graph, precision: str) -> Any:
        """Load a graph."""
        import adfast

        path = self.folder / "trial.plan"
        write_plan(path, graph, self.compiled.fields, {}, Golden(), {}, {})
        return adfast.load(path, device="cpu", precision=precision)

    def predict(self, engine: Any, image: Any) -> Any:
        """Let an engine inspect a frame or a file."""
        return engine.predict(image, pixel_format=self.pixel_format)

    def answers(self, engine: Any, frames: Sequence[np.ndarray]) -> list[parity.Answer]:
        """Return what an engine says of frames."""
        results = [self.predict(engine, frame) for frame in frames]
        return [(result.score, result.network_map) for result in results]

    def error(self, engine: Any) -> dict[str, float]:
        """How far an engine's answers are from the reference's."""
        return parity.difference(self.expected, self.answers(engine, self.frames))

    def judge(self, engine: Any, name: str) -> tuple[bool, dict[str, Any]]:
        """Ask the gate: whether an engine passes, and the evidence."""
        found: dict[str, Any] = self.error(engine)
        exact, got = self._scores(engine, self.images, name)
        found["score_spearman"] = spearman(exact, got)
        found["score_images"] = len(exact)
        passed = found["score_spearman"] >= MIN_SPEARMAN
        passed &= found["map_max_rel"] <= MAX_MAP_ERROR[name]
        if self.labelled and passed:
            labels = np.array([bad for _, bad in self.labelled])
            paths = [path for path, _ in self.labelled]
            exact, got = self._scores(engine, paths, f"labelled images, {name}")
            found["auroc_f32"], found["auroc"] = auroc(labels, exact), auroc(labels, got)
            passed = abs(found["auroc"] - found["auroc_f32"]) <= MAX_AUROC_CHANGE
        return passed, found

    def _scores(
        self, engine: Any, images: Sequence[Any], name: str
    ) -> tuple[list[float], list[float]]:
        """Scores of f32, computed once, and of the engine."""
        key = "f32 labelled images" if images is not self.images else "f32"
        if key not in self._exact_scores:
            self._exact_scores[key] = [
                self.predict(self.exact, image).score for image in self.track(images, key)
            ]
        got = [self.predict(engine, image).score for image in self.track(images, name)]
        return self._exact_scores[key], got


@dataclass
class Choice:
    """What was chosen, why, the evidence for the plan's report, and the graph to write."""

    precision: str
    reason: str
    report: dict[str, Any]
    graph: Graph


def choose(trial: Trial, asked: str) -> Choice:
    """Choose a precision.

    Args:
        trial: what to compare on.
        asked: one of `PRECISIONS`, or "auto".

    Raises:
        CompileError: int8 was asked for and does not pass the gate.
        DataError: int8 was asked for and there are no images to calibrate it on.
    """
    graph, report = trial.compiled.graph, {}
    native = bool(trial.exact.info.get("native_bf16"))
    engines, refused = {"f32": trial.exact}, []
    if native or asked == "bf16":
        bf16 = trial.engine(graph, "bf16")
        if asked in ("auto", "bf16"):
            passed, found = trial.judge(bf16, "bf16")
            if passed:
                engines["bf16"] = bf16
            else:
                refused.append(f"bf16 ({describe(found)})")
        else:
            found = trial.error(bf16)  # the golden frames' tolerance
        report["engine_bf16"] = found
    if asked == "int8" and not trial.samples:
        raise DataError("int8 is calibrated on images: give good ones with --calibrate DIR")
    if asked in ("auto", "int8") and trial.samples and quantize.candidates(graph):
        found = _search(trial)
        report["engine_int8"] = {**found.evidence, "passed": found.passed}
        if found.passed:
            graph = found.graph
            engines["int8"] = trial.engine(graph, "int8")
        else:
            refused.append(f"int8 ({describe(found.evidence)})")
    if asked == "int8" and "int8" not in engines:
        what = refused[-1] if refused else "no step of it may run in int8"
        raise CompileError(
            f"the model cannot be built in int8: {what}; asked for are a rank correlation of "
            f"{MIN_SPEARMAN}, an AUROC within {100 * MAX_AUROC_CHANGE:g} points and a map within "
            f"{MAX_MAP_ERROR['int8']:g} of its maximum; build it with "
            "--precision auto"
        )
    if asked != "auto":
        drift = report.get(f"engine_{asked}") if asked != "f32" else None
        reason = "asked for" + (f"; {describe(drift)}" if drift else "")
        return Choice(asked, reason, report, graph)
    times = _times(engines, trial)
    report["milliseconds"] = times
    chosen = min(times, key=lambda name: times[name] * (MIN_GAIN if name != "f32" else 1))
    clock = ", ".join(f"{name} {ms:.2f} ms" for name, ms in times.items())
    reason = f"the fastest here that passes: {clock}"
    if chosen != "f32":
        reason += f"; {describe(report[f'engine_{chosen}'])}"
    if refused:
        reason += f"; refused: {', '.join(refused)}"
    return Choice(chosen, reason, report, graph)


def describe(found: dict[str, Any]) -> str:
    """Say in a sentence how far a precision is from f32."""
    text = (
        f"rank correlation with f32 scores {found['score_spearman']:.4f} on "
        f"{found['score_images']} images, map error {found['map_max_rel']:.1e} of its maximum"
    )
    if "auroc" in found:
        change = 100 * (found["auroc"] - found["auroc_f32"])
        text += f", AUROC {change:+.2f} points"
    if found.get("steps_in_float"):
        text += f", {len(found['steps_in_float'])} of {found['steps']} steps left in f32"
    return text


def _search(trial: Trial) -> quantize.Found:
    """Calibrate int8 and find the steps that bear it."""
    graph = trial.compiled.graph
    begin = time.perf_counter()
    trial.predict(trial.exact, trial.samples[0])
    # Both passes over the samples look at every element too.
    count = int(BUDGET / (4 * max(time.perf_counter() - begin, 1e-4)))
    samples = trial.samples[:: -(-len(trial.samples) // max(count, 4))]
    names = {node.inputs[0].name for node in quantize.candidates(graph)}
    seen = quantize.observe(trial.exact, samples, names, trial.track, trial.pixel_format)
    frames = trial.frames[: max(min(count, TRIAL_FRAMES), 2)]
    expected = trial.answers(trial.exact, frames)

    def drift(tried: Graph) -> float:
        answers = trial.answers(trial.engine(tried, "int8"), frames)
        return parity.difference(expected, answers)["map_mean_rel"]

    found = quantize.search(
        graph, seen, drift, lambda g: trial.judge(trial.engine(g, "int8"), "int8"), trial.track
    )
    found.evidence["calibration_images"] = len(samples)
    return found


def _times(engines: dict[str, Any], trial: Trial) -> dict[str, float]:
    """Median milliseconds a frame; the engines take turns, so that all see the same machine."""
    seen: dict[str, list[float]] = {name: [] for name in engines}
    begin = time.perf_counter()
    for number in range(ROUNDS):
        for name, engine in engines.items():
            frame = trial.frames[number % len(trial.frames)]
            took = trial.predict(engine, frame).timings["total"]
            if number:  # the first warms caches
                seen[name].append(took)
        if number >= 2 and time.perf_counter() - begin > BUDGET / 2:
            break
    return {name: float(np.median(values)) for name, values in seen.items()}
