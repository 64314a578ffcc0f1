"""How each paper trains its model, and what `adfast train MODEL` offers to change about it.

Needs nothing but the standard library, so that `adfast train MODEL --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from adfast.errors import ModelError

OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("constant", "exponential", "step")

BACKBONE_WEIGHTS = (
    "ImageNet weights of the backbone: a .safetensors, .npz or .pth file, hub (download), or none "
    "(random, for trying out). default: hub"
)


@dataclass(frozen=True)
class Option:
    """A field of a model's config as an option of the command line.

    Attributes:
        name: of the config's field; the option is --name with dashes.
        default: the config's default, in words if it is not a value.
        help: what it is.
        type: turns the word typed into the field's value.
        metavar: what stands for the word in the help.
        choices: the words allowed, if few.
    """

    name: str
    default: Any
    help: str
    type: Callable[[str], Any] = str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Recipe:
    """A paper's training.

    Attributes:
        paper: its title.
        optimizer: see `adfast.training.TrainSettings`, as all up to weight_decay.
        lr: initial learning rate.
        schedule: how the rate falls.
        lr_decay: see schedule.
        lr_drop: see schedule.
        weight_decay: of the optimizer.
        batch: images per step.
        epochs: passes over the training images.
        patience: epochs without improvement before the training stops; 0: none does.
        size: side of the crop; 0 where it is that of the model that is trained on.
        resize: side that images are stretched to before the crop, for that size.
        fraction: share of the good images that is trained on.
        options: further options.
        weights: what --weights takes.
        default_weights: what it is where it is not given.
        labelled: whether it learns from images with known anomalies too.
        quick: what --quick changes: option names and values, for machines without a GPU.
        cifar10: what --cifar10 changes, alike: the paper's model for CIFAR-10, if it has one.
    """

    paper: str
    optimizer: str
    lr: float
    batch: int
    epochs: int
    size: int
    resize: int
    schedule: str = "constant"
    lr_decay: float = 1.0
    lr_drop: float = 1.0
    weight_decay: float = 0.0
    patience: int = 0
    fraction: float = 0.8
    options: tuple[Option, ...] = ()
    weights: str = BACKBONE_WEIGHTS
    default_weights: str = "hub"
    labelled: bool = False
    quick: dict[str, Any] = field(default_factory=dict)
    cifar10: dict[str, Any] = field(default_factory=dict)

    def resize_for(self, size: int) -> int:
        """Return the side to stretch to for a crop: as the paper, else in proportion."""
        return round(size * self.resize / self.size)


def whole_numbers(text: str) -> list[int]:
    """Read "0,1,2" as [0, 1, 2]."""
    return [int(word) for word in text.split(",")]


def numbers(text: str) -> list[float]:
    """Read "0.5,0.5,0.5" as [0.5, 0.5, 0.5]."""
    return [float(word) for word in text.split(",")]


def square(text: str) -> list[int]:
    """Read "16" as [16, 16]."""
    return [int(text)] * 2


YES_NO = {"yes": True, "no": False}.__getitem__

RECIPES = {
    # Section 4.2 and eq. 20.
    "gtrans": Recipe(
        paper="Multiresolution Feature Guidance Based Transformer for Anomaly Detection",
        optimizer="adam",
        lr=1e-3,
        schedule="exponential",
        lr_decay=0.9,
        weight_decay=1e-4,
        batch=32,
        epochs=300,
        size=224,
        resize=256,
        options=(
            Option(
                "backbone",
                "resnet34",
                "frozen trunk and trained one",
                choices=("resnet18", "resnet34", "wide_resnet50_2"),
            ),
            Option(
                "fusion",
                "P6",
                "how the maps of the layers are combined",
                choices=tuple(f"P{i}" for i in range(1, 7)),
            ),
            Option(
                "mapper_source",
                "decoder",
                "tokens the mapper reads",
                choices=("decoder", "encoder"),
            ),
        ),
        quick={"backbone": "resnet18", "size": 128, "batch": 8, "epochs": 40},
    ),
    # Section 4.2 and the appendix.
    "adtr": Recipe(
        paper="ADTR: Anomaly Detection Transformer with Feature Reconstruction",
        optimizer="adamw",
        lr=1e-4,
        schedule="step",
        lr_decay=0.1,
        lr_drop=0.8,  # after 400 of 500 epochs
        weight_decay=1e-4,
        batch=16,
        epochs=500,
        size=256,
        resize=256,
        options=(
            Option(
                "backbone",
                "tf_efficientnet_b4",
                "frozen feature extractor, any convolutional model of timm",
                metavar="NAME",
            ),
            Option(
                "levels",
                "one per stride 2, 4, 8, 16 and 32",
                "feature levels of the backbone, 0 being the finest",
                type=whole_numbers,
                metavar="N,N,...",
            ),
            Option(
                "grid",
                "1/16 of --size",
                "side of the feature map (8 for CIFAR-10)",
                type=square,
                metavar="N",
            ),
            Option(
                "pool",
                "16, or all of a smaller map",
                "side of the mean filter before the maximum that is the score",
                type=int,
                metavar="N",
            ),
            Option(
                "upsample",
                "yes",
                "no leaves the map on the grid (CIFAR-10)",
                type=YES_NO,
                choices=("yes", "no"),
            ),
            Option("dropout", 0.1, "in training", type=float, metavar="SHARE"),
        ),
        quick={"backbone": "resnet18", "size": 128, "batch": 8, "epochs": 60},
        # The appendix: a map of 8x8, which is the output stride 4, and larger batches.
        cifar10={"size": 32, "grid": [8, 8], "upsample": "no", "batch": 128},
    ),
    # Section 4.1.2.
    "saae": Recipe(
        paper="Self-Attention Autoencoder for Anomaly Segmentation",
        optimizer="adam",
        lr=1e-4,
        batch=32,
        epochs=700,
        size=384,
        resize=384,
        options=(
            Option("backbone", "vit_base_patch16_384", "frozen ViT, any of timm's", metavar="NAME"),
            Option(
                "layers",
                "0,1,2,3,4",
                "its outputs to use, 0 being the patch projection, N that of block N",
                type=whole_numbers,
                metavar="N,N,...",
            ),
            Option("mean", "ImageNet's", "the ViT's, of RGB in 0..1", numbers, "R,G,B"),
            Option("std", "ImageNet's", "the ViT's, of RGB in 0..1", numbers, "R,G,B"),
            Option(
                "width",
                "measured by a PCA of the training features",
                "channels V of the latent map, a multiple of 3",
                type=int,
                metavar="V",
            ),
            Option("pca_variance", 0.8, "share of the variance that PCA keeps", float, "SHARE"),
            Option(
                "mlp_factor",
                2,
                "width of the MLP in units of V: the paper has 1 for textures, 2 for objects",
                type=float,
                metavar="F",
            ),
        ),
        quick={"backbone": "vit_tiny_patch16_224", "size": 224, "batch": 8, "epochs": 100},
    ),
    # Section 4.1. The paper trains until the patience is at its end, for more than 500 epochs in
    # some cases; the limit is ours.
    "intra": Recipe(
        paper="Inpainting Transformer for Anomaly Detection",
        optimizer="adam",
        lr=1e-4,
        batch=32,  # of 8 windows each
        epochs=1000,
        size=256,
        resize=256,
        patience=50,
        fraction=0.9,
        options=(
            Option("patch", 16, "side of a patch in pixels", type=int, metavar="K"),
            Option("window", 7, "side of a window in patches", type=int, metavar="L"),
            Option(
                "positions",
                "global",
                "what the position of a patch counts in, the image or its window (textures)",
                choices=("global", "local"),
            ),
            Option(
                "attention",
                "mfsa",
                "queries and keys by small networks (mfsa) or linear (msa)",
                choices=("mfsa", "msa"),
            ),
            Option(
                "long_skips",
                "yes",
                "early blocks also feed late ones",
                type=YES_NO,
                choices=("yes", "no"),
            ),
            Option("width", 512, "of the tokens", type=int, metavar="D"),
            Option("blocks", 13, "of the transformer", type=int, metavar="N"),
            Option("heads", 8, "of every attention", type=int, metavar="N"),
            Option("epoch_windows", 600, "windows per image and epoch", type=int, metavar="N"),
            Option(
                "visit_windows",
                8,
                "windows of each image of a step, which so has 32 * 8 = 256 as the paper's",
                type=int,
                metavar="N",
            ),
            Option(
                "augment",
                "yes",
                "flip and turn the training images at random",
                type=YES_NO,
                choices=("yes", "no"),
            ),
            Option(
                "mean_map_images",
                "all",
                "training images of whose maps the mean is taken",
                type=int,
                metavar="N",
            ),
        ),
        weights="none: this model is trained from scratch. default: none",
        default_weights="none",
        quick={
            "size": 128,
            "patch": 8,
            "window": 5,
            "width": 96,
            "blocks": 5,
            "heads": 4,
            "epoch_windows": 32,
            "augment": "no",
            "lr": 2e-3,
            "batch": 4,
            "epochs": 30,
        },
    ),
    # Section 4.1.
    "haloae": Recipe(
        paper="HaloAE: An HaloNet based Local Transformer Auto-Encoder for Anomaly Detection and "
        "Localization",
        optimizer="adam",
        lr=1e-4,
        weight_decay=1e-5,
        batch=12,
        epochs=250,
        size=256,
        resize=256,
        options=(
            Option(
                "backbone",
                "vgg19",
                "frozen feature extractor",
                choices=tuple(f"vgg{n}{bn}" for n in (11, 13, 16, 19) for bn in ("", "_bn")),
            ),
            Option(
                "layers",
                "1,3,5,8",
                "its convolutions whose outputs to use, 1 being the first",
                type=whole_numbers,
                metavar="N,N,...",
            ),
            Option("head_width", 234, "channels after the encoder's head", int, "N"),
            Option(
                "widths",
                "234,117,58,29",
                "channels of the encoder's four stages",
                type=whole_numbers,
                metavar="N,N,N,N",
            ),
            Option(
                "decoder_widths",
                "29,58,118,236",
                "channels of the decoder's stages but the last",
                type=whole_numbers,
                metavar="N,N,N,N",
            ),
            Option(
                "heads",
                "4,8,8,8",
                "of the attention of the encoder's stages",
                type=whole_numbers,
                metavar="N,N,N,N",
            ),
            Option(
                "decoder_heads",
                "4,8,8,8,8",
                "of the attention of the decoder's stages",
                type=whole_numbers,
                metavar="N,N,N,N,N",
            ),
            Option(
                "image_widths",
                "128,64,32,16",
                "channels between the convolutions that reconstruct the image",
                type=whole_numbers,
                metavar="N,N,N,N",
            ),
            Option("block", 12, "side of a block of the attention", int, "N"),
            Option("halo", 2, "pixels around a block that it sees", int, "N"),
            Option(
                "legacy_mask",
                "no",
                "yes masks the attention as the code published with the paper does, the wrong way "
                "round",
                type=YES_NO,
                choices=("yes", "no"),
            ),
            Option(
                "map_source",
                "features",
                "what the map compares, features or images and their reconstructions",
                choices=("features", "image"),
            ),
        ),
        quick={
            "backbone": "vgg11",
            "layers": [1, 2],
            "head_width": 32,
            "widths": [32, 24, 16, 16],
            "decoder_widths": [16, 16, 24, 32],
            "heads": [1, 1, 1, 1],
            "decoder_heads": [1, 1, 1, 1, 1],
            "image_widths": [16, 16, 8, 8],
            "block": 6,
            "halo": 1,
            "size": 112,
            "lr": 1e-3,
            "batch": 8,
            "epochs": 50,
        },
    ),
    # Section 4.2: the same optimizer, from a trained ADTR.
    "adtr_plus": Recipe(
        paper="ADTR+: ADTR trained on with synthetic anomalies (same paper, section 3.3)",
        optimizer="adamw",
        lr=1e-4,
        schedule="step",
        lr_decay=0.1,
        lr_drop=2 / 3,  # after 200 of 300 epochs
        weight_decay=1e-4,
        batch=16,
        epochs=300,
        size=0,
        resize=0,
        options=(
            Option(
                "labels",
                "pixel",
                "use where the anomalies are (eq. 7) or only that they are there (eq. 9)",
                choices=("pixel", "image"),
            ),
            Option("alpha", 0.003, "weight of pushing", type=float, metavar="WEIGHT"),
            Option("top", 20, "k of eq. 8", type=int, metavar="K"),
            Option(
                "anomalies",
                0.5,
                "share of the good images that get confetti; 0 with --labelled only",
                type=float,
                metavar="SHARE",
            ),
            Option(
                "labelled_share",
                0.25,
                "share of a batch that are --labelled images",
                float,
                "SHARE",
            ),
        ),
        labelled=True,
        weights="the run folder of a trained adtr to start from",
        quick={"batch": 8, "epochs": 20},
    ),
}


def recipe(model: str) -> Recipe:
    """Return the recipe of a model; a ModelError names the models there are."""
    if model not in RECIPES:
        raise ModelError(f"model is {model!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[model]
