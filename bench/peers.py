"""The same model in the engine and in its peers, each at its best settings.

A contestant takes the benchmark's frames to scores and maps. The engine goes from uint8 frames to
scores and full-size maps in one call. A peer has three parts: `prepare` (frames to the network's
input, with Pillow and numpy, as its users would write it), `network`, and `finish` (the network's
maps to full-size maps); they are timed together as "end to end", and `network` alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Answer = tuple[np.ndarray, np.ndarray]  # scores [N], maps [N, h, w] at the network's resolution
Network = Callable[[np.ndarray], Answer]
PAUSE = 0.02


@dataclass
class Scene:
    """The frames, and how a frame becomes the network's input and its map a map of the frame."""

    frames: list[np.ndarray]
    resize: tuple[int, int]
    crop: tuple[int, int]
    inspected: tuple[int, int, int, int]

    def prepare(self) -> np.ndarray:
        from PIL import Image

        (height, width), crop = self.resize, self.crop
        top, left = ((r - c) // 2 for r, c in zip(self.resize, crop, strict=True))
        image = np.empty((len(self.frames), 3, *crop), np.float32)
        for i, frame in enumerate(self.frames):
            small = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
            part = np.asarray(small)[top : top + crop[0], left : left + crop[1]]
            np.multiply(part.transpose(2, 0, 1), np.float32(1 / 255), out=image[i])
        return image

    def finish(self, maps: np.ndarray) -> list[np.ndarray]:
        from PIL import Image

        top, left, bottom, right = self.inspected
        full = []
        for frame, small in zip(self.frames, maps, strict=True):
            sized = Image.fromarray(small).resize(
                (right - left, bottom - top), Image.Resampling.BILINEAR
            )
            result = np.zeros(frame.shape[:2], np.float32)
            result[top:bottom, left:right] = np.asarray(sized)
            full.append(result)
        return full


@dataclass
class Peer:
    """A network of somebody else, between the scene's preparation and finish."""

    scene: Scene
    run: Network
    image: np.ndarray

    def end_to_end(self) -> tuple[np.ndarray, list[np.ndarray]]:
        scores, maps = self.run(self.scene.prepare())
        return scores, self.scene.finish(maps)

    def network(self) -> Answer:
        return self.run(self.image)


class Engine:
    """The engine, which has no stage to leave out."""

    network = None

    def __init__(
        self, plan: Path, precision: str, threads: int, scene: Scene, frames_at_once: int = 0
    ):
        import adfast

        self.loaded = adfast.load(
            plan,
            device="cpu",
            precision=precision,
            threads=threads,
            frames_at_once=frames_at_once,
        )
        self.frames = scene.frames

    def results(self) -> list:
        if len(self.frames) == 1:
            return [self.loaded.predict(self.frames[0])]
        return self.loaded.predict_batch(self.frames)

    def end_to_end(self) -> tuple[np.ndarray, list[np.ndarray]]:
        results = self.results()
        return np.array([r.score for r in results]), [r.map for r in results]

    def answer(self) -> Answer:
        results = self.results()
        return np.array([r.score for r in results]), np.stack([r.network_map for r in results])


def onnxruntime(onnx_path: Path, threads: int) -> Network:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])

    def run(image: np.ndarray) -> Answer:
        scores, maps = session.run(["score", "map"], {"image": image})
        return scores.reshape(-1), maps[:, 0]

    return run


def openvino_model(onnx_path: Path, batch: int, crop: tuple[int, int]):
    import onnx
    import onnx.inliner
    import openvino as ov

    path = onnx_path.with_suffix(".inlined.onnx")
    if not path.exists():
        onnx.save(onnx.inliner.inline_local_functions(onnx.load(onnx_path)), path)
    model = ov.Core().read_model(path)
    model.reshape([batch, 3, *crop])
    return model


def quantized(onnx_path: Path, batch: int, crop: tuple[int, int], images: list[np.ndarray]):
    """Quantize to int8 as NNCF does by default, calibrated on `images`; kept beside the ONNX."""
    import logging

    import nncf
    import openvino as ov
    from openvino import passes

    path = onnx_path.with_suffix(".int8.xml")
    if path.exists():
        model = ov.Core().read_model(path)
        model.reshape([batch, 3, *crop])
        return model

    nncf.set_log_level(logging.ERROR)
    # NNCF cannot follow a weight that is still computed from a constant, as the blur's is.
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    # Any batch, or the folded constants would hold the shape of one.
    model = openvino_model(onnx_path, -1, crop)
    manager.run_passes(model)
    data = nncf.Dataset(images, lambda image: {"image": image})
    model = nncf.quantize(model, data, subset_size=len(images))
    ov.save_model(model, path, compress_to_fp16=False)
    return quantized(onnx_path, batch, crop, images)


def openvino(model, precision: str, threads: int) -> Network:
    """One call for the whole batch, for the least latency; `precision` is f32 or bf16."""
    import openvino as ov

    compiled = ov.Core().compile_model(
        model, "CPU", _openvino_options("LATENCY", precision, threads)
    )
    request = compiled.create_infer_request()

    def run(image: np.ndarray) -> Answer:
        results = request.infer({"image": image}, share_inputs=True, share_outputs=True)
        return results["score"].reshape(-1), results["map"][:, 0]

    return run


def openvino_streams(model, precision: str, threads: int) -> Network:
    """Frames one by one on as many streams as OpenVINO thinks best, for the most frames."""
    import openvino as ov

    options = _openvino_options("THROUGHPUT", precision, threads)
    queue = ov.AsyncInferQueue(ov.Core().compile_model(model, "CPU", options))
    found: dict[int, Answer] = {}

    def keep(request, index: int) -> None:
        found[index] = (
            request.get_tensor("score").data.reshape(-1).copy(),
            request.get_tensor("map").data[:, 0].copy(),
        )

    queue.set_callback(keep)

    def run(image: np.ndarray) -> Answer:
        for index in range(len(image)):
            queue.start_async({"image": image[index : index + 1]}, index, share_inputs=True)
        queue.wait_all()
        answers = [found[index] for index in range(len(image))]
        return np.concatenate([a[0] for a in answers]), np.concatenate([a[1] for a in answers])

    return run


def _openvino_options(hint: str, precision: str, threads: int) -> dict:
    return {
        "PERFORMANCE_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }


def torch_eager(model, threads: int) -> Network:
    return _torch(model, model, "f32", threads)


def torch_compile(model, precision: str, threads: int) -> Network:
    import torch
    import torch._inductor.config as inductor

    inductor.freezing = True
    torch._dynamo.reset()
    return _torch(model, torch.compile(model, dynamic=False), precision, threads)


def _torch(model, call, precision: str, threads: int) -> Network:
    import torch

    torch.set_num_threads(threads)
    model.eval().to(memory_format=torch.channels_last)

    def run(image: np.ndarray) -> Answer:
        tensor = torch.from_numpy(image).contiguous(memory_format=torch.channels_last)
        low = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")
        with torch.no_grad(), low:
            scores, maps = call(tensor)
        return scores.float().reshape(-1).numpy(), maps[:, 0].float().numpy()

    return run


def settle(pause: float = PAUSE) -> None:
    """Wait until the threads of others sleep: some spin for long after their turn."""
    for _ in range(50):
        busy = time.process_time()
        time.sleep(pause)
        if time.process_time() - busy < 0.1 * pause:
            return


def timed(call: Callable[[], object], pause: float = PAUSE) -> float:
    """Milliseconds of one call, after a pause in which the threads of others go to sleep."""
    settle(pause)
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3
