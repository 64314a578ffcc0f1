"""The errors adfast raises on purpose: what was expected, what came, what to do."""


class AdfastError(Exception):
    """Base class of every error adfast raises on purpose."""


class StreamFull(AdfastError):
    """A stream's queue has no room, and its policy is to say so."""


class StreamClosed(AdfastError):
    """A stream takes no more frames, or has no more results."""


class PlanError(AdfastError):
    """A plan file is broken, altered, too new, or cannot be run here."""


class FrameError(AdfastError, ValueError):
    """An image has the wrong dtype, shape or channel count, or cannot be read."""


class ArgumentError(AdfastError, ValueError):
    """An argument is outside its range, or asks for what this machine lacks."""


class ModelError(AdfastError):
    """A model's config, weights or checkpoint do not fit."""


class DataError(AdfastError):
    """A data folder lacks what is needed, or holds files that cannot be used."""


class CompileError(AdfastError):
    """An ONNX file or graph cannot be compiled; names the op and the node."""
