"""Frozen convolutional backbones, and the ways their weights arrive.

They are timm's (`features_only`): a list of feature maps, from fine to coarse, cut after the last
one that is used.
"""

from __future__ import annotations

import difflib
import hashlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from adfast.errors import ModelError
from adfast.models.state import misfit

# timm's tag of the ImageNet weights that the papers use, where timm's own choice is another:
# torchvision's for the ResNets, the ported AutoAugment ones for the EfficientNets.
TAGS = {
    "resnet18": "tv_in1k",
    "resnet34": "tv_in1k",
    "wide_resnet50_2": "tv_in1k",
    **{f"tf_efficientnet_b{i}": "aa_in1k" for i in range(8)},
}
STRIDES = (2, 4, 8, 16, 32)

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


def create_backbone(
    name: str, levels: Sequence[int] | None = None, *, pretrained: bool = False
) -> nn.Module:
    """Build a trunk: image [B, 3, H, W] -> list of feature maps [B, C_l, H_l, W_l].

    Args:
        name: of a convolutional model of timm, with or without the tag of its weights.
        levels: which of its feature levels, counted from the finest; None takes those of the
            strides 2, 4, 8, 16 and 32 that it has. What follows the last one is cut off.
        pretrained: fetch the ImageNet weights from the hub (needs a network or a filled cache).

    Raises:
        ModelError: the name is unknown, the model has no such levels, or the weights cannot be
            fetched.
    """
    timm = import_timm()
    tag = tag_of(name) if pretrained else name
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 5)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ModelError(f"backbone is {name!r}, expected the name of a model of timm{hint}")
    if pretrained:
        stop_retries_when_offline()
    try:
        if levels is None:
            levels = _levels(timm, name)
        # Later stages and the classifier are dropped by timm before it hands the module over.
        return timm.create_model(
            tag, pretrained=pretrained, features_only=True, out_indices=tuple(levels)
        )
    except Exception as error:
        if not pretrained:
            raise ModelError(
                f"backbone {name} has no feature maps at levels {levels}: {error}"
            ) from error
        raise fetch_error(tag, error) from error


def fetch_error(tag: str, error: Exception) -> ModelError:
    """Say how to get weights by hand; offline, the hub's client raises one of many types."""
    return ModelError(
        f"cannot fetch the weights {tag} from the hub. On a machine with a network, download "
        f"model.safetensors of https://huggingface.co/timm/{tag} (or torchvision's .pth), copy "
        "it here and pass --weights FILE; --weights none trains against random features, for "
        f"trying out only. The hub's client says: {type(error).__name__}: {error}"
    )


def tag_of(name: str) -> str:
    """Return timm's name of the weights: resnet18.tv_in1k of resnet18."""
    return f"{name}.{TAGS[name]}" if name in TAGS else name


def _levels(timm, name: str) -> tuple[int, ...]:
    """Return the last level of each of `STRIDES`."""
    with torch.device("meta"):
        info = timm.create_model(name, features_only=True).feature_info
    last = {stride: level for level, stride in enumerate(info.reduction())}
    return tuple(last[stride] for stride in STRIDES if stride in last)


def stop_retries_when_offline() -> None:
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


def load_state(backbone: nn.Module, state: Mapping[str, Tensor], source: str, name: str) -> None:
    """Copy a timm (or torchvision ResNet) state dict of a whole model into a trunk of it.

    A convolution with a bias of its own has its BatchNorm folded in already; its BatchNorm here
    then adds exactly that bias. What the trunk was cut off from and `num_batches_tracked` are
    ignored.

    Args:
        backbone: from `create_backbone`.
        state: the tensors of the file.
        source: the file, for messages.
        name: of the backbone.

    Raises:
        ModelError: lists the keys that are missing, unknown or of another shape.
    """
    wanted = backbone.state_dict()
    modules = {key for key, _ in backbone.named_modules()}
    with torch.device("meta"):
        whole = import_timm().create_model(name)
    cut = {key for key, _ in whole.named_modules()} - modules
    given = {}
    for key, value in state.items():
        key = key.removeprefix("module.")
        # timm joins the outermost names where it takes a model apart: features_0 of features.0.
        if key not in wanted and key.replace(".", "_", 1) in wanted:
            key = key.replace(".", "_", 1)
        module, _, last = key.rpartition(".")
        if module not in cut and last != "num_batches_tracked":
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
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    if problems := misfit(wanted, given, optional=counters):
        raise ModelError(f"weights {source} do not fit the backbone: {problems}")
    backbone.load_state_dict(given, strict=False)


def load_backbone(
    name: str, weights: str, levels: Sequence[int] | None = None
) -> tuple[nn.Module, dict]:
    """Build a trunk and fill it.

    Args:
        name: see `create_backbone`.
        weights: a file (see `read_tensors`), "hub" (ImageNet weights by timm) or "none" (random).
        levels: see `create_backbone`.

    Returns:
        The trunk and where its weights came from, {"source": str, "sha256": str (files only)}.
    """
    if weights == "hub":
        return create_backbone(name, levels, pretrained=True), {"source": f"hub:{tag_of(name)}"}
    backbone = create_backbone(name, levels)
    if weights == "none":
        return backbone, {"source": "none (random)"}
    load_state(backbone, read_tensors(weights), str(weights), name)
    digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    return backbone, {"source": Path(weights).name, "sha256": digest}
