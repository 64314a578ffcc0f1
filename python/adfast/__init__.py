"""adfast: anomaly detection plans, run by a small C++ engine.

>>> engine = adfast.load("part.plan")                 # doctest: +SKIP
>>> result = engine.predict("frame.png")              # doctest: +SKIP
>>> result.score, result.is_anomalous, result.map     # doctest: +SKIP
"""

from adfast._version import __version__
from adfast.engine import PIXEL_FORMATS, Engine, load
from adfast.errors import (
    AdfastError,
    ArgumentError,
    CompileError,
    DataError,
    FrameError,
    ModelError,
    PlanError,
)
from adfast.result import Box, Region, Result

__all__ = [
    "PIXEL_FORMATS",
    "AdfastError",
    "ArgumentError",
    "Box",
    "CompileError",
    "DataError",
    "Engine",
    "FrameError",
    "ModelError",
    "PlanError",
    "Region",
    "Result",
    "__version__",
    "load",
]
