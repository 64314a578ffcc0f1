"""Runs the cases in Triton's interpreter and prints one JSON line for each as it begins and ends.

A process of its own: TRITON_INTERPRET must be set before the kernels' decorators run, and a read
out of range can end it.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402
from triton_cases import CASES, load_kernels  # noqa: E402

# bfloat16 is left to GPUs: the interpreter computes with its bit patterns.
RUNS = [
    (case, dtype)
    for case in CASES
    if not case.large
    for dtype in ((torch.float32, torch.float16) if case.half else (torch.float32,))
]


def run_id(case, dtype) -> str:
    return f"{case}-{str(dtype).removeprefix('torch.')}"


def main() -> None:
    torch.set_num_threads(1)
    kernels = load_kernels()
    assert kernels.INTERPRETED
    wanted = sys.argv[1:]
    for case, dtype in RUNS:
        name = run_id(case, dtype)
        if wanted and not any(word in name for word in wanted):
            continue
        print(json.dumps({"run": name}), flush=True)
        line = {"run": name, "allowed": case.allowed(dtype)}
        begin = time.perf_counter()
        try:
            line["error"] = case.error(kernels, dtype)
        except Exception as error:
            line["raised"] = f"{type(error).__name__}: {error}"
        line["seconds"] = round(time.perf_counter() - begin, 3)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
