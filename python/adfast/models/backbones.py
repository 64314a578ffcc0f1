"""ResNet trunks up to layer3, and the ways their weights arrive.

The trunks are timm's (`features_only`), cut after layer3: output strides 4, 8 and 16.
"""

from __future__ import annotations

import hashlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from adfast.errors import ModelError

# Name of the backbone: channels of layer1..layer3, timm's tag of torchvision's ImageNet weights.
BACKBONES = {
    "resnet18": ((64, 128, 256), "resnet18.tv_in1k"),
    "resnet34": ((64, 128, 256), "resnet34.tv_in1k"),
    "wide_resnet50_2": ((256, 512, 1024), "wide_resnet50_2.tv_in1k"),
}
STRIDES = (4, 8, 16)

_library: torch.library.Library | None = None  # keeps the declarations below alive


def import_timm():
    """Import timm; make torchvision importable first where only its compiled half does not load.

    torchvision on PyPI is built for CUDA. Beside a CPU-only torch its extension is skipped, and the
    import then stops at the first operator that it describes but that nobody declared. timm needs
    only torchvision's Python half, so declaring those two operators is enough.
    """
    global _library
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error) or _library is not None:
            raise
        _library = torch.library.Library("torchvision", "DEF")
        _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except ImportError:
        pass  # timm says it better
    try:
        import timm
    except ImportError as error:
        raise ModelError(
            f'training needs timm and torchvision ({error}); pip install "adfast[train]"'
        ) from error
    return timm


def create_backbone(name: str, *, pretrained: bool = False) -> nn.Module:
    """Build a trunk: image [B, 3, H, W] -> list of the outputs of layer1, layer2, layer3.

    Args:
        name: a key of `BACKBONES`.
        pretrained: fetch the ImageNet weights from the hub (needs a network or a filled cache).

    Raises:
        ModelError: the name is unknown, or the weights cannot be fetched.
    """
    if name not in BACKBONES:
        raise ModelError(f"backbone is {name!r}; choose one of {', '.join(BACKBONES)}")
    timm = import_timm()
    tag = BACKBONES[name][1] if pretrained else name
    if pretrained:
        _stop_retries_when_offline()
    try:
        # layer4 and the classifier are dropped by timm before it hands the module over.
        return timm.create_model(
            tag, pretrained=pretrained, features_only=True, out_indices=(1, 2, 3)
        )
    except Exception as error:
        if not pretrained:
            raise
        # Offline the hub client raises one of many types; the remedy is the same for all of them.
        raise ModelError(
            f"cannot fetch the weights {tag} from the hub. On a machine with a network, download "
            f"model.safetensors of https://huggingface.co/timm/{tag} (or torchvision's .pth), copy "
            "it here and pass --weights FILE; --weights none trains against random features, for "
            f"trying out only. The hub's client says: {type(error).__name__}: {error}"
        ) from error


def _stop_retries_when_offline() -> None:
    """Let the hub client use its cache only where the hub's name does not even resolve.

    It would try again for most of a minute before it says the same.
    """
    from huggingface_hub import constants

    try:
        if not urllib.request.getproxies():
            socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from `.safetensors`, `.npz` or `.pth`/`.pt` (never unpickling objects).

    Raises:
        ModelError: the file is missing, of another kind, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"weights file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        if path.suffix in (".pth", ".pt"):
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state) if isinstance(state, Mapping) else {}
            return {key: value for key, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:
        raise ModelError(f"cannot read weights from {path}: {error}") from error
    raise ModelError(f"weights file {path}: expected .safetensors, .npz, .pth or .pt")


def batch_norm_of(conv: str) -> str:
    """Return the name of the BatchNorm after a convolution: layer1.0.bn2 of layer1.0.conv2."""
    head, _, last = conv.rpartition(".")
    norm = last.replace("conv", "bn") if last.startswith("conv") else str(int(last) + 1)
    return f"{head}.{norm}" if head else norm


def load_state(backbone: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy a timm or torchvision ResNet state dict into a trunk of `create_backbone`.

    A convolution with a bias of its own has its BatchNorm folded in already; its BatchNorm here
    then adds exactly that bias. The classifier, layer4 and `num_batches_tracked` are ignored.

    Raises:
        ModelError: lists the keys that are missing, unknown or of another shape.
    """
    wanted = backbone.state_dict()
    given = {}
    for key, value in state.items():
        key = key.removeprefix("module.")
        if not key.startswith(("fc.", "layer4.")) and not key.endswith("num_batches_tracked"):
            given[key] = value
    for key in [key for key in given if key.endswith(".bias")]:
        conv = key.removesuffix(".bias")
        if key in wanted or f"{conv}.weight" not in wanted:
            continue
        norm = batch_norm_of(conv)
        if f"{norm}.bias" in wanted and f"{norm}.bias" not in given:
            bias = given.pop(key).float()
            eps = backbone.get_submodule(norm).eps
            given[f"{norm}.bias"] = bias
            given[f"{norm}.weight"] = torch.ones_like(bias)
            given[f"{norm}.running_mean"] = torch.zeros_like(bias)
            # variance + eps is 1 then, so nothing but the bias is left of the BatchNorm.
            given[f"{norm}.running_var"] = torch.full_like(bias, 1.0 - eps)
    needed = {key for key in wanted if not key.endswith("num_batches_tracked")}
    problems = [f"missing {key}" for key in sorted(needed - given.keys())]
    problems += [f"unknown {key}" for key in sorted(given.keys() - needed)]
    problems += [
        f"{key} is {list(given[key].shape)}, expected {list(wanted[key].shape)}"
        for key in sorted(needed & given.keys())
        if given[key].shape != wanted[key].shape
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" * (len(problems) > 8))
        raise ModelError(f"weights {source} do not fit the backbone: {shown}")
    backbone.load_state_dict(given, strict=False)


def load_backbone(name: str, weights: str) -> tuple[nn.Module, dict]:
    """Build a trunk and fill it.

    Args:
        name: a key of `BACKBONES`.
        weights: a file (see `read_tensors`), "hub" (ImageNet weights by timm) or "none" (random).

    Returns:
        The trunk and where its weights came from, {"source": str, "sha256": str (files only)}.
    """
    if weights == "hub":
        return create_backbone(name, pretrained=True), {"source": f"hub:{BACKBONES[name][1]}"}
    backbone = create_backbone(name)
    if weights == "none":
        return backbone, {"source": "none (random)"}
    load_state(backbone, read_tensors(weights), str(weights))
    digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    return backbone, {"source": Path(weights).name, "sha256": digest}
