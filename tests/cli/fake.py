"""An engine that needs no plan: the score is the largest difference from mid-grey."""

import numpy as np

from adfast.errors import FrameError


class FakeResult:
    """Has the fields of `adfast.Result`."""

    def __init__(self, map_, threshold):
        """Take a map and score its maximum."""
        self.map = self.network_map = map_
        self.score = float(map_.max())
        self.threshold = threshold
        self.is_anomalous = None if threshold is None else self.score > threshold
        self.mask = None if threshold is None else map_ > threshold
        self.timings = {"frame": 0.1, "network": 1.0, "map": 0.2, "total": 1.3}
        height, width = map_.shape
        # As a centre crop would: a margin of a quarter is not inspected.
        self.inspected = (height // 4, width // 4, height - height // 4, width - width // 4)


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

    def predict(self, frame):
        """Score one uint8 frame."""
        self.calls += 1
        if frame.dtype != np.uint8:
            raise FrameError("expected uint8")
        grey = frame if frame.ndim == 2 else frame.mean(axis=2)
        result = FakeResult((np.abs(grey.astype(np.float32) - 128) / 128), self.threshold)
        top, left, bottom, right = result.inspected
        outside = np.ones(grey.shape, bool)
        outside[top:bottom, left:right] = False
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
