"""ADTR+: ADTR adapted to available anomalies (You et al., section 3.3).

A trained ADTR is trained on: good images pull the reconstruction towards the features, as before,
and anomalies push it away from them. The anomalies are confetti on good images, images that the
user has labelled, or both. At inference it is ADTR.

Equation numbers are the paper's. "Ours" marks what the paper leaves open.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from adfast import models
from adfast.data.confetti import confetti
from adfast.errors import ModelError
from adfast.models.adtr import ADTR, ADTRConfig


@dataclass(frozen=True)
class ADTRPlusConfig(ADTRConfig):
    """ADTR's choices, which are those of the model it starts from, and these.

    Attributes:
        labels: what is known of an anomaly, "pixel" (eq. 7) or "image" (eq. 9).
        alpha: weight of pushing.
        top: largest values of phi that stand for an image, k of eq. 8; all of a smaller grid.
        anomalies: share of the good images of a batch that get confetti (ours); 0 with labelled
            images only.
        labelled_share: share of a batch that are labelled images, if there are any (ours).
    """

    labels: str = "pixel"
    alpha: float = 0.003
    top: int = 20
    anomalies: float = 0.5
    labelled_share: float = 0.25

    name = "adtr_plus"

    def __post_init__(self) -> None:
        """Refuse values that cannot work; see `ADTRConfig`."""
        super().__post_init__()
        self.check(
            {
                "labels": (self.labels in ("pixel", "image"), "pixel or image"),
                "alpha": (self.alpha > 0, "positive"),
                "top": (self.top >= 1, "at least 1"),
                "anomalies": (0 <= self.anomalies < 1, "at least 0 and below 1"),
                "labelled_share": (0 < self.labelled_share < 1, "between 0 and 1"),
            }
        )


class ADTRPlus(ADTR):
    """ADTR with the losses for labelled anomalies; see `ADTR` and `ADTRPlusConfig`."""

    takes_labelled = True

    @classmethod
    def from_weights(cls, config: ADTRPlusConfig, weights: str) -> tuple[ADTRPlus, dict]:
        """Take over a trained ADTR, its backbone and its config.

        Args:
            config: of the fields of `ADTRConfig`, those that are not the default must be the run's.
            weights: the folder of a training run of ADTR.

        Raises:
            ModelError: the folder is no such run, or its config is another.
        """
        if weights in ("hub", "none"):
            raise ModelError(
                "[adtr_plus] starts from a trained ADTR; give the folder that adfast train adtr "
                "--out wrote as --weights RUN"
            )
        trained, info = models.load_run(weights)
        if info["model"] != "adtr":
            raise ModelError(f"[adtr_plus] {weights} is a run of {info['model']}, expected adtr")
        # The sizes first: others follow from them.
        fields = ["crop", "resize", *(field.name for field in dataclasses.fields(ADTRConfig))]
        for field in fields:
            value, theirs = getattr(config, field), getattr(trained.config, field)
            if value not in (theirs, getattr(ADTRPlusConfig(), field)):
                raise ModelError(
                    f"[adtr_plus] {field} is {value!r}, expected {theirs!r} as in {weights}"
                )
        config = dataclasses.replace(config, **vars(trained.config))
        model = cls(config, trained.backbone)
        model.load_state_dict(trained.state_dict())
        best = Path(weights) / "best.safetensors"
        digest = hashlib.sha256(best.read_bytes()).hexdigest()
        return model, {"source": f"run:{Path(weights).resolve().name}", "sha256": digest}

    def losses(self, image: Tensor, features: list[Tensor] | None = None) -> Tensor:
        """Eq. 7 or 9 per image: [B], float32; some of the images get confetti first.

        Out of training it is always the same confetti.

        Args:
            image: [B, 3, H, W], RGB in [0, 1], good.
            features: frozen features of these images where they are known already.
        """
        (f,) = self.frozen_features(image) if features is None else features
        generator = None if self.training else torch.Generator().manual_seed(0)
        draw = torch.rand(len(image), generator=generator)
        chosen = (draw < self.config.anomalies).to(image.device)
        labels = torch.zeros(len(image), 1, *self.config.grid, device=image.device)
        if chosen.any():
            noisy, masks = confetti(image[chosen], generator)
            (f_noisy,) = self.frozen_features(noisy)
            f = f.clone()
            f[chosen] = f_noisy.to(f.dtype)
            # A token is anomalous where any of its pixels is (ours).
            labels[chosen] = F.adaptive_max_pool2d(masks.float(), self.config.grid)
        return self._losses(f, labels)

    def labelled_losses(self, image: Tensor, labels: Tensor) -> Tensor:
        """Eq. 7 or 9 per image: [B], float32.

        Args:
            image: [B, 3, H, W], RGB in [0, 1], anomalous.
            labels: [B, 1, *grid], 1 where a token is anomalous; all 1 where only the image is known
                to be.
        """
        (f,) = self.frozen_features(image)
        return self._losses(f, labels)

    def _losses(self, f: Tensor, labels: Tensor) -> Tensor:
        phi = pseudo_huber(f.float() - self.reconstruction(f).float())
        labels = labels.flatten(1)
        if self.config.labels == "pixel":
            return pixel_loss(phi, labels, self.config.alpha)
        return image_loss(phi, labels.amax(dim=1), self.config.alpha, self.config.top)


def pseudo_huber(difference: Tensor) -> Tensor:
    """Eq. 6: phi [B, HW] of d [B, C, H, W]."""
    mean = difference.abs().mean(dim=1).flatten(1)
    return (mean.square() + 1).sqrt() - 1


def push(distance: Tensor) -> Tensor:
    """Return -log(1 - exp(-distance)), the second term of eq. 7 and 9."""
    # expm1 keeps the digits of small distances; the bound keeps the logarithm of zero finite.
    return -torch.log(-torch.expm1(-distance.clamp_min(1e-6)))


def pixel_loss(phi: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Eq. 7 per image: [B].

    Args:
        phi: [B, HW].
        labels: y(u), 0 or 1 [B, HW]. An image without anomalies has nothing to push: its second
            term, infinite as printed, is left out (ours).
        alpha: weight of pushing.
    """
    pull = ((1 - labels) * phi).mean(dim=1)
    pushed = push((labels * phi).mean(dim=1))
    return pull + alpha * torch.where(labels.any(dim=1), pushed, 0.0)


def image_loss(phi: Tensor, labels: Tensor, alpha: float, top: int) -> Tensor:
    """Eq. 8 and 9 per image: [B], of phi [B, HW] and labels y, 0 or 1 [B]."""
    q = phi.topk(min(top, phi.shape[1]), dim=1).values.mean(dim=1)  # eq. 8
    return (1 - labels) * q + alpha * labels * push(q)  # eq. 9
