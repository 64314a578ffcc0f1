"""How far answers are from a reference's, and who gives the reference's answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adfast.compiler import Compiled
from adfast.errors import CompileError

#: A frame, (H, W) or (H, W, 3), uint8 or float32 of 0 to 255 (`adfast.images.to_255`), to its score
#: and its map at the network's resolution.
Answer = tuple[float, np.ndarray]
Answers = Callable[[np.ndarray], Answer]


def difference(expected: Sequence[Answer], got: Iterable[Answer]) -> dict[str, float]:
    """Compare answers.

    Returns:
        "map_max_rel": the largest |map - expected| of any pixel, over the maximum of that expected
        map; "map_mean_rel": its mean over pixels and images; "score_max_rel": the largest
        |score - expected| over the expected score.
    """
    largest, mean, score = 0.0, 0.0, 0.0
    for (wanted_score, wanted), (got_score, got_map) in zip(expected, got, strict=True):
        if wanted.shape != got_map.shape:
            raise CompileError(
                f"[parity] a map has shape {got_map.shape}, the reference's {wanted.shape}"
            )
        error = np.abs(got_map.astype(np.float64) - wanted) / max(
            float(np.abs(wanted).max()), 1e-30
        )
        # A NaN would compare as smaller than anything.
        if not (np.isfinite(error).all() and np.isfinite(got_score)):
            raise CompileError("[parity] an answer is not finite; check the model's weights")
        largest, mean = max(largest, float(error.max())), mean + float(error.mean()) / len(expected)
        score = max(score, abs(got_score - wanted_score) / max(abs(wanted_score), 1e-30))
    return {"map_max_rel": largest, "map_mean_rel": mean, "score_max_rel": score}


def from_run(model: Any) -> Answers:
    """Answer by a trained PyTorch model, in float32, with the resize of its training."""
    import torch

    from adfast.data.folder import to_network

    config = model.config

    def answer(frame: np.ndarray) -> Answer:
        pixels = np.array(np.broadcast_to(frame.reshape(*frame.shape[:2], -1), _rgb(frame)))
        image = to_network(pixels, tuple(config.resize), tuple(config.crop))
        with torch.inference_mode():
            score, score_map = model(image[None])
        return float(score[0]), score_map[0, 0].numpy().copy()

    return answer


def from_onnx(path: Path, compiled: Compiled) -> tuple[str, Answers]:
    """Answer by the ONNX file: in ONNX Runtime if installed, else in onnx's own evaluator."""
    runtime = _onnxruntime(path)
    if runtime is not None:
        return "onnxruntime", _through(runtime, compiled)
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(os.fspath(path))
    return "onnx.reference", _through(evaluator.run, compiled)


def from_onnxruntime(path: Path, compiled: Compiled) -> Answers | None:
    """Answer by ONNX Runtime; None when it is not installed."""
    runtime = _onnxruntime(path)
    return None if runtime is None else _through(runtime, compiled)


def _onnxruntime(path: Path) -> Callable | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        os.fspath(path), options, providers=["CPUExecutionProvider"]
    )
    return session.run


def _through(run: Callable, compiled: Compiled) -> Answers:
    from adfast.compiler.reference import frame as make_input

    fields = compiled.fields
    unit = {"scale": [1 / 255] * 3, "bias": [0.0] * 3}
    names = [compiled.onnx_map] + ([compiled.onnx_score] if compiled.onnx_score else [])

    def answer(frame: np.ndarray) -> Answer:
        image = make_input(
            frame,
            fields["frame.resize"],
            fields["frame.crop"],
            fields["frame.antialias"],
            **unit,
        )
        made = run(names, {compiled.onnx_input: image.astype(np.float32)})
        score_map = made[0][0, 0]
        return float(made[1].reshape(-1)[0] if len(made) > 1 else score_map.max()), score_map

    return answer


def _rgb(frame: np.ndarray) -> tuple[int, int, int]:
    return (*frame.shape[:2], 3)
