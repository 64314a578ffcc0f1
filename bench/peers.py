"""The same ONNX file or model in the engine and in its peers, each at its best settings.

A contestant is a function of the benchmark's one frame that returns the score and the map at the
network's resolution. The engine starts from the uint8 frame and also makes the full-size map; the
peers start from the resized and normalised tensor and stop at the network's map, which favours
them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Contestant = Callable[[], tuple[float, np.ndarray]]


def engine(plan: Path, precision: str, threads: int, frame: np.ndarray) -> Contestant:
    import adfast

    loaded = adfast.load(plan, precision=precision, threads=threads)

    def call():
        result = loaded.predict(frame)
        return result.score, result.network_map

    return call


def onnxruntime(onnx_path: Path, threads: int, image: np.ndarray) -> Contestant:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])

    def call():
        score, score_map = session.run(["score", "map"], {"image": image})
        return float(score[0]), score_map[0, 0]

    return call


def openvino(onnx_path: Path, precision: str, threads: int, image: np.ndarray) -> Contestant:
    import onnx
    import onnx.inliner
    import openvino as ov

    inlined = onnx.inliner.inline_local_functions(onnx.load(onnx_path))
    path = onnx_path.with_suffix(".inlined.onnx")
    onnx.save(inlined, path)
    core = ov.Core()
    model = core.read_model(path)
    model.reshape(list(image.shape))
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": precision,
        },
    )
    request = compiled.create_infer_request()

    def call():
        results = request.infer({"image": image}, share_inputs=True, share_outputs=True)
        return float(results["score"][0]), results["map"][0, 0]

    return call


def torch_compile(model, precision: str, threads: int, image: np.ndarray) -> Contestant:
    import torch
    import torch._inductor.config as inductor

    torch.set_num_threads(threads)
    inductor.freezing = True
    model = model.eval().to(memory_format=torch.channels_last)
    tensor = torch.from_numpy(image).contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(model)
    low = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")

    def call():
        with torch.no_grad(), low:
            score, score_map = compiled(tensor)
        return float(score[0]), score_map[0, 0].float().numpy()

    return call


def timed(call: Contestant, pause: float = 0.02) -> float:
    """Milliseconds of one call, after a pause in which the threads of others go to sleep."""
    time.sleep(pause)
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3
