"""One model's race: contestants whose answers are checked, taking turns.

Contestants take turns within each round, so that a machine that slows down slows down for all,
after a pause in which the others' threads go to sleep.
"""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import figures
import numpy as np
import peers

from adfast.benchmark import sample_frame
from adfast.errors import AdfastError

SIDE = 512
THREADS = len(os.sched_getaffinity(0))
LEAST_ROUNDS = 3
# A network that takes longer than this is timed within its end-to-end call, not once more.
SLOW_MS = 1000.0
# Largest difference of a map from PyTorch's f32 map, over that map's maximum. In bf16 and int8
# random weights, which reconstruct nothing, exaggerate it; maps that are not close must agree in
# shape: correlate.
TOLERANCE = {"f32": 1e-3, "bf16": 0.25, "int8": 1.0}
CLOSE = 0.05
LEAST_CORRELATION = {"f32": 0.999, "bf16": 0.95, "int8": 0.8}


def frames(count: int) -> list[np.ndarray]:
    """Return frames of one scene in different light, the same each time."""
    base = sample_frame(SIDE, SIDE).astype(np.float32)
    return [np.clip(base * (1 - 0.04 * i), 0, 255).astype(np.uint8) for i in range(count)]


def calibration_images(title: str) -> int:
    """Return how many images int8 is calibrated on, the engine's and the peers' alike."""
    return 2 if title == "InTra" else 8  # its calibration takes seconds an image


class WrongAnswer(ValueError):
    """A contestant's map is too far from PyTorch's."""


def inspected(config) -> tuple[int, int, int, int]:
    """Return the part of a frame that the network sees: top, left, bottom, right."""
    margins = [(r - c) // 2 / r for r, c in zip(config.resize, config.crop, strict=True)]
    top, left = (round(SIDE * margin) for margin in margins)
    return top, left, SIDE - top, SIDE - left


class Race:
    """One model and batch: contestants with their answers checked, and why others are missing."""

    def __init__(self, title: str, batch: int, folder: Path, made: tuple):
        self.model, self.onnx_path, self.plan, _ = made
        config = self.model.config
        self.scene = peers.Scene(frames(batch), config.resize, config.crop, inspected(config))
        # Calibration and answers are on what PyTorch is trained on; Pillow rounds to uint8 between.
        from adfast.data.folder import to_network

        self.inputs = [
            to_network(frame, config.resize, config.crop)[None].numpy()
            for frame in frames(max(batch, calibration_images(title)))
        ]
        self.image = np.concatenate(self.inputs[:batch])
        self.title, self.batch, self.folder = title, batch, folder
        self.contestants: dict[str, peers.Engine | peers.Peer] = {}
        self.missing: dict[str, str] = {}

    def expected(self) -> peers.Answer:
        import torch

        with torch.no_grad():
            answers = [self.model(torch.from_numpy(image)) for image in self.inputs[: self.batch]]
        scores = np.concatenate([score.reshape(-1).numpy() for score, _ in answers])
        return scores, np.concatenate([maps[:, 0].numpy() for _, maps in answers])

    def enter(self, wanted: list[str]) -> None:
        """Set up, check and warm up everybody; who cannot run is noted with the reason."""
        expected = self.expected()
        builders = self.builders()
        for name in builders:
            if wanted and not any(word.lower() in name.lower() for word in wanted):
                continue
            choices = []
            for build in builders[name]:
                try:
                    choices.append(self.checked(name, build, expected))
                except (AdfastError, ImportError, RuntimeError, ValueError) as error:
                    self.missing[name] = str(error).strip().splitlines()[0][:200]
                    print(f"  {name}: left out: {self.missing[name]}", flush=True)
            if choices:
                # Of several settings the one that is faster on this machine.
                milliseconds, self.contestants[name] = min(choices, key=lambda choice: choice[0])
                print(f"  {name}: ready, {milliseconds:.1f} ms", flush=True)
                self.missing.pop(name, None)
            gc.collect()
        if not self.contestants:
            raise SystemExit("nobody is left to run")

    def builders(self) -> dict[str, list]:
        several = self.batch > 1
        engines = {
            f"adfast {p}": [
                lambda p=p, n=n: peers.Engine(self.plan, p, THREADS, self.scene, n)
                for n in ((0, THREADS) if several else (0,))
            ]
            for p in ("f32", "bf16", "int8")
        }
        size = self.model.config.crop

        def openvino(precision: str, streams: bool, rest: str = "") -> peers.Network:
            batch = 1 if streams else self.batch
            if precision == "int8":
                images = self.inputs[: calibration_images(self.title)]
                model = peers.quantized(self.onnx_path, batch, size, images)
            else:
                model = peers.openvino_model(self.onnx_path, batch, size)
            start = peers.openvino_streams if streams else peers.openvino
            return start(model, rest or precision, THREADS)

        found: dict[str, list] = {}
        ways = (False, True) if several else (False,)
        for p in ("f32", "bf16"):
            found[f"OpenVINO {p}"] = [lambda p=p, way=way: openvino(p, way) for way in ways]
        # What int8 leaves is computed in f32 or in bf16, whichever is faster on this machine.
        rests = ("f32", "bf16") if native_bf16() else ("f32",)
        found["OpenVINO int8"] = [
            lambda way=way, rest=rest: openvino("int8", way, rest) for way in ways for rest in rests
        ]
        found["ONNX Runtime f32"] = [lambda: peers.onnxruntime(self.onnx_path, THREADS)]
        found["PyTorch f32"] = [lambda: peers.torch_eager(self.model, THREADS)]
        for p in ("f32", "bf16"):
            found[f"torch.compile {p}"] = [
                lambda p=p: peers.torch_compile(self.model, p, THREADS),
            ]
        return engines | {
            name: [
                lambda build=build: peers.Peer(self.scene, build(), self.image) for build in builds
            ]
            for name, builds in found.items()
        }

    def checked(self, name: str, build, expected: peers.Answer):
        """Return (milliseconds of a warm call, contestant), or raise WrongAnswer."""
        contestant = build()
        ours = isinstance(contestant, peers.Engine)
        precision = figures.precision_of(name)
        _, maps = contestant.answer() if ours else contestant.network()
        error = np.abs(maps - expected[1]).max() / expected[1].max()
        alike = np.corrcoef(maps.ravel(), expected[1].ravel())[0, 1]
        shaped = error <= CLOSE or alike >= LEAST_CORRELATION[precision]
        if not (error <= TOLERANCE[precision] and shaped):
            raise WrongAnswer(
                f"wrong answer: maps differ by {error:.2g} of the maximum, correlation {alike:.3f}"
            )
        first = peers.timed(contestant.end_to_end)
        if first > 10 * SLOW_MS:
            return first, contestant
        return min(peers.timed(contestant.end_to_end) for _ in range(2)), contestant

    def run(self, rounds: int, seconds: float) -> dict:
        """Let everybody take turns until `rounds` or `seconds` are over."""
        names = list(self.contestants)
        whole: dict[str, list[float]] = {name: [] for name in names}
        network: dict[str, list[float]] = {
            name: [] for name in names if not name.startswith("adfast")
        }
        begin = time.perf_counter()
        done = 0
        while done < rounds and (done < LEAST_ROUNDS or time.perf_counter() - begin < seconds):
            # The order turns, so that nobody always follows the same neighbour.
            turn = done % len(names)
            for name in names[turn:] + names[:turn]:
                contestant = self.contestants[name]
                if name in network and (not network[name] or min(network[name]) < SLOW_MS):
                    network[name].append(peers.timed(contestant.network))
                    whole[name].append(peers.timed(contestant.end_to_end))
                elif name in network:
                    stages = parts(contestant)
                    network[name].append(stages["network"])
                    whole[name].append(sum(stages.values()))
                else:
                    whole[name].append(peers.timed(contestant.end_to_end))
            done += 1
        times = {
            name: {"end_to_end": figures.summary(whole[name])}
            | ({"network": figures.summary(network[name])} if name in network else {})
            for name in names
        }
        return {
            "rounds": done,
            "times": times,
            "ratios": figures.comparisons(whole, network),
            "missing": self.missing,
        }


def native_bf16() -> bool:
    from adfast import _core

    return _core.native_bf16()


def parts(peer: peers.Peer) -> dict[str, float]:
    """Time one end-to-end call of a peer by its parts."""
    peers.settle()
    marks = [time.perf_counter()]
    image = peer.scene.prepare()
    marks.append(time.perf_counter())
    _, maps = peer.run(image)
    marks.append(time.perf_counter())
    peer.scene.finish(maps)
    marks.append(time.perf_counter())
    names = ("prepare", "network", "finish")
    return {n: 1e3 * (b - a) for n, a, b in zip(names, marks, marks[1:], strict=False)}
