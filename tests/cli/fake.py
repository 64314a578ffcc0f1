"""An engine that needs no plan: the score is the largest difference from mid-grey."""

import numpy as np

from adfast.errors import FrameError
from adfast.images import to_uint8
from adfast.result import Box, Result


def fake_result(map_, threshold):
    """Score a map by its maximum; as of a centre crop, a margin of a quarter is not inspected."""
    height, width = map_.shape
    return Result(
        score=float(map_.max()),
        map=map_,
        network_map=map_,
        inspected=Box(width // 4, height // 4, width - width // 4 * 2, height - height // 4 * 2),
        threshold=threshold,
        timings={"frame": 0.1, "network": 1.0, "map": 0.2, "total": 1.3},
    )


class FakeEngine:
    """Has the methods of `adfast.Engine` that the commands use."""

    def __init__(self, threshold=0.5):
        """Choose the threshold; None for a plan without one."""
        self.threshold = threshold
        self.calls = 0
        self.info = {
            "plan": "fake.plan",
            "model": "fake",
            "precision": "f32",
            "isa": "none",
            "threads": 1,
            "resize": (8, 9),
        }

    def predict(self, frame, *, pixel_format=""):
        """Score one uint8 frame, or one of a deep format by what is seen of it in 8 bits."""
        self.calls += 1
        frame = to_uint8(frame, pixel_format)
        if frame.dtype != np.uint8:
            raise FrameError("expected uint8")
        grey = frame if frame.ndim == 2 else frame.mean(axis=2)
        result = fake_result((np.abs(grey.astype(np.float32) - 128) / 128), self.threshold)
        outside = np.ones(grey.shape, bool)
        outside[result.inspected.slices] = False
        result.map[outside] = 0
        return result

    def predict_batch(self, frames):
        """Score several frames."""
        return [self.predict(frame) for frame in frames]

    def warmup(self, n):
        """Do nothing."""

    def profile(self, frame):
        """Report two steps on two lanes."""
        common = {"kernel": "fast", "begin_ms": 0.0, "gflop": 0.2, "bytes": 4e6}
        return [
            common | {"op": "conv2d", "name": "stem", "index": 0, "lane": 0, "ms": 1.0},
            common | {"op": "add", "name": "sum", "index": 1, "lane": 1, "ms": 4.0},
        ]

    def self_test(self):
        """Pass."""
        frame = {"score": 1.0, "expected_score": 1.0, "map_error": 1e-6, "score_error": 2e-6}
        return {"passed": True, "precision": "f32", "tolerance": 1e-4, "frames": [frame] * 3}
