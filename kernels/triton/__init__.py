"""The fused pieces of the models as Triton kernels, each beside its meaning in PyTorch.

One file per family. It holds the `@triton.jit` kernel, a launcher that takes torch tensors, the
plain formula (`*_reference`), and the `VARIANTS` that `compile.py` compiles ahead of time for the
C++ engine. Installed as `adfast.triton`; `adfast.ops` is its face for PyTorch users. Everything
here imports without Triton, which only the launchers need.

Feature maps are channels-last, [batch, height, width, channels] or [batch, pixels, channels]; sums,
softmax and statistics are float32 whatever the dtype. A launcher takes CUDA tensors; where Triton
interprets (TRITON_INTERPRET=1 before the import), CPU tensors, but never bfloat16: Triton's
interpreter computes with its bit patterns.
"""

from .attention import attention, attention_reference
from .common import AVAILABLE, INTERPRETED, TYPES, TooLarge
from .conv2d import conv2d, conv2d_reference
from .fuse_maps import fuse_maps, fuse_maps_reference
from .gaussian_blur import gaussian_blur, gaussian_blur_reference
from .gms_map import gms_map, gms_map_reference
from .halo_attention import halo_attention, halo_attention_reference
from .layer_norm import layer_norm, layer_norm_reference
from .projector_attention import (
    projector_attention,
    projector_attention_reference,
    projector_score_map,
    projector_score_map_reference,
)
from .score_map import score_map, score_map_reference
from .token_attention import token_attention, token_attention_reference

__all__ = [
    "AVAILABLE",
    "INTERPRETED",
    "TYPES",
    "TooLarge",
    "attention",
    "attention_reference",
    "conv2d",
    "conv2d_reference",
    "fuse_maps",
    "fuse_maps_reference",
    "gaussian_blur",
    "gaussian_blur_reference",
    "gms_map",
    "gms_map_reference",
    "halo_attention",
    "halo_attention_reference",
    "layer_norm",
    "layer_norm_reference",
    "projector_attention",
    "projector_attention_reference",
    "projector_score_map",
    "projector_score_map_reference",
    "score_map",
    "score_map_reference",
    "token_attention",
    "token_attention_reference",
]
