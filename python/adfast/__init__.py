"""adfast: anomaly detection plans, run by a small C++ engine.

>>> engine = adfast.load("part.plan")                 # doctest: +SKIP
>>> result = engine.predict("frame.png")              # doctest: +SKIP
>>> result.score, result.is_anomalous, result.map     # doctest: +SKIP
"""

from adfast._version import __version__
from adfast.engine import PIXEL_FORMATS, Engine, load, set_log
from adfast.errors import (
    AdfastError,
    ArgumentError,
    CompileError,
    DataError,
    FrameError,
    ModelError,
    PlanError,
    StreamClosed,
    StreamFull,
)
from adfast.result import Box, Region, Result
from adfast.stream import Frame, Stream, StreamResult

__all__ = [
    "PIXEL_FORMATS",
    "AdfastError",
    "ArgumentError",
    "Box",
    "CompileError",
    "DataError",
    "Engine",
    "Frame",
    "FrameError",
    "ModelError",
    "PlanError",
    "Region",
    "Result",
    "Stream",
    "StreamClosed",
    "StreamFull",
    "StreamResult",
    "__version__",
    "load",
    "set_log",
]
