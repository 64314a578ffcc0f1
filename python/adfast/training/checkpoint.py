"""The files of a run folder.

    config.json        model, config, settings, images, weights, versions; "finished" at the end
    best.safetensors   the model of the epoch with the lowest validation loss
    last.safetensors   all that resuming needs: model, optimizer ("optimizer.*"), position
    history.jsonl      one line per epoch

Each is written under a temporary name and renamed, so a kill leaves the state before or after.
`last` is one file, as two could come from different moments.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from adfast.errors import ModelError
from adfast.files import atomic_path, atomic_write
from adfast.models.detector import Detector
from adfast.models.state import misfit

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def write_json(path: Path, value: dict) -> None:
    """Write a dict as indented JSON."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")


def write_history(path: Path, history: list[dict]) -> None:
    """Write one JSON object per line."""
    with atomic_write(path, "w") as file:
        file.writelines(json.dumps(record) + "\n" for record in history)


def read_history(path: Path) -> list[dict]:
    """Read what `write_history` wrote; a missing file is an empty history."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def save_model(path: Path, model: Detector) -> None:
    """Write all parameters and buffers of a model, with its name and config as metadata."""
    # One entry: safetensors writes several in any order, and the same model is the same bytes.
    whose = {"model": model.config.name, "config": model.config.to_dict()}
    _save(path, dict(model.state_dict()), {"adfast": json.dumps(whose)})


def load_model(path: Path, model: Detector) -> None:
    """Fill a model with what `save_model` wrote of one like it.

    Raises:
        ModelError: the file is damaged, or of another model or config: says which.
    """
    try:
        with safe_open(path, framework="pt") as file:
            whose = json.loads((file.metadata() or {}).get("adfast", "{}"))
            state = {key: file.get_tensor(key) for key in file.keys()}
        name, config = whose.get("model"), whose.get("config", {})
    except Exception as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    expected = model.config.to_dict()
    problems = ""
    if name not in (None, model.config.name):  # files of earlier versions do not say
        problems = f"it is a checkpoint of {name}, expected {model.config.name}"
    else:
        others = [key for key in sorted(config) if config[key] != expected.get(key)]
        problems = "; ".join(
            f"{key} is {config[key]!r}, expected {expected.get(key)!r}" for key in others
        )
    problems = problems or misfit(model.state_dict(), state)
    if problems:
        raise ModelError(f"{path} does not fit the config.json beside it: {problems}")
    model.load_state_dict(state)


def save_last(path: Path, model: Detector, optimizer: torch.optim.Adam, position: dict) -> None:
    """Write the state to resume from; `position` is JSON."""
    tensors = dict(model.state_dict())
    for name, parameter in model.named_parameters():
        for moment in MOMENTS:
            if parameter in optimizer.state:
                tensors[f"optimizer.{name}.{moment}"] = optimizer.state[parameter][moment]
    _save(path, tensors, {"position": json.dumps(position)})


def load_last(path: Path, model: Detector, optimizer: torch.optim.Adam) -> dict:
    """Restore what `save_last` wrote and return the position.

    Raises:
        ModelError: the file is damaged or of another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            position = json.loads(file.metadata()["position"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        state = {k: v for k, v in tensors.items() if not k.startswith("optimizer.")}
        if problems := misfit(model.state_dict(), state):
            raise ValueError(problems)
        model.load_state_dict(state)
        for name, parameter in model.named_parameters():
            if f"optimizer.{name}.step" in tensors:
                moments = {m: tensors[f"optimizer.{name}.{m}"] for m in MOMENTS}
                for moment in MOMENTS[1:]:  # with the parameter's strides, as Adam made them
                    moments[moment] = torch.empty_like(parameter.detach()).copy_(moments[moment])
                optimizer.state[parameter] = moments
    except Exception as error:
        raise ModelError(f"cannot resume from {path}: {error}") from error
    return position


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
