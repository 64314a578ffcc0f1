"""Which handler is for which ONNX op.

A handler takes a `Call` and returns the result, or the results. It raises `Unsupported` with the
reason in words that fit after "Op: ". Handlers keep to one meaning: what several ops share is left
to passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adfast.compiler.importer import Call

Handler = Callable[[Call], Any]
ONNX: dict[str, Handler] = {}  # of ONNX's own ops
FUNCTIONS: dict[str, Handler] = {}  # of the domain adfast


def onnx(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler of ONNX's ops of these names."""

    def register(handler: Handler) -> Handler:
        ONNX.update(dict.fromkeys(names, handler))
        return handler

    return register


def function(handler: Handler) -> Handler:
    """Register a handler of the function of its name: `_score_map` is for ScoreMap."""
    FUNCTIONS["".join(part.title() for part in handler.__name__.strip("_").split("_"))] = handler
    return handler
