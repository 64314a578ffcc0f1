"""The training loop: `train` is all of it, the rest prepares or measures."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import platform
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from adfast import models
from adfast.data.folder import dataset_sha256, good_images, split_good
from adfast.errors import AdfastError, ModelError
from adfast.models.backbones import load_backbone
from adfast.training import checkpoint
from adfast.training.feed import Feed, available_memory
from adfast.training.reporting import Reporter
from adfast.training.settings import TrainSettings


def train(
    settings: TrainSettings,
    out: str | Path,
    *,
    resume: bool = False,
    report: Reporter | None = None,
) -> dict:
    """Train a model on good images and leave a run folder (see `adfast.training.checkpoint`).

    The order of the images follows from seed and epoch, and the state is saved after every epoch,
    so a resumed training does what the uninterrupted one would have done.

    Args:
        settings: see `TrainSettings`.
        out: the run folder, made if need be.
        resume: go on from last.safetensors, if there is one, with the same settings.
        report: is told of the progress.

    Returns:
        The run's config.json.

    Raises:
        DataError: images are missing or broken.
        ModelError: weights do not fit, or the loss is no longer finite.
        AdfastError: the run folder cannot be written or holds another training.
        KeyboardInterrupt: Ctrl-C came; the state is saved.
    """
    report = report or Reporter()
    out = Path(out)
    run = Run(settings, out, resume, report)
    model, optimizer, position, history = run.model, run.optimizer, run.position, run.history
    epochs, batch, count = settings.epochs, settings.batch, len(run.train_indices)
    steps = math.ceil(count / batch)
    with interruptible() as stop:
        for epoch in range(position["epoch"], epochs):
            began = time.monotonic()
            if not position["step"]:
                position.update(step=0, loss_sum=0.0)
            generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
            order = run.train_indices[torch.randperm(count, generator=generator)].split(batch)
            order = order[position["step"] :]
            report.phase(f"epoch {epoch + 1}/{epochs}", len(run.feed))
            report.advance(position["step"] * batch)
            model.train()
            for images, features in run.batches(order):
                step = epoch * steps + position["step"]
                rate = settings.lr * settings.lr_decay ** (step / (epochs * steps))  # eq. 20
                optimizer.param_groups[0]["lr"] = rate
                with run.autocast():
                    loss = model.loss(images, features)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                position["step"] += 1
                position["loss_sum"] += loss.item() * len(images)
                seen = min(position["step"] * batch, count)
                report.advance(len(images), position["loss_sum"] / seen)
                if not math.isfinite(position["loss_sum"]):
                    raise ModelError(f"loss is {loss.item()} in epoch {epoch + 1}; lower --lr")
                if stop.is_set():
                    checkpoint.save_last(out / "last.safetensors", model, optimizer, position)
                    raise KeyboardInterrupt
            validation, alpha_scale = run.validate()
            if not math.isfinite(validation):
                raise ModelError(f"validation loss is {validation}; lower --lr")
            run.set_alpha_scale(alpha_scale)
            record = {
                "epoch": epoch + 1,
                "loss": position["loss_sum"] / count,
                "validation_loss": validation,
                "lr": rate,
                "alpha_scale": alpha_scale,
                "seconds": round(time.monotonic() - began, 3),
            }
            history.append(record)
            if validation < position["best"]["validation_loss"]:
                position["best"] = {"epoch": epoch + 1, "validation_loss": validation}
                checkpoint.save_model(out / "best.safetensors", model)
            position.update(epoch=epoch + 1, step=0, loss_sum=0.0)
            checkpoint.save_last(out / "last.safetensors", model, optimizer, position)
            checkpoint.write_history(out / "history.jsonl", history)
            report.message(
                f"epoch {epoch + 1}/{epochs}: loss {record['loss']:.5g}, validation "
                f"{validation:.5g}, {count / record['seconds']:.1f} images/s"
            )
            if stop.is_set():
                raise KeyboardInterrupt
    report.close()
    return run.finish()


class Run:
    """What the loop works with: model, optimizer, images and the position in the training.

    Raises as `train` does. Everything that can fail early fails here.
    """

    def __init__(self, settings: TrainSettings, out: Path, resume: bool, report: Reporter) -> None:
        self.settings, self.out, self.report = settings, out, report
        self.device = _device(settings.device)
        self.precision = _precision(settings.precision, self.device)
        last = out / "last.safetensors"
        resume = resume and last.is_file()
        root = Path(settings.data)
        train_paths, validation_paths = split_good(
            good_images(root, settings.list_file), settings.fraction, settings.seed
        )
        _check_out(out, resume)
        self.config = models.config_class(settings.model).from_dict(settings.config)
        torch.manual_seed(settings.seed)
        agn, weights = load_backbone(self.config.backbone, settings.weights)
        self.model = models.create(settings.model, self.config, agn=agn)
        self.model.to(self.device, memory_format=torch.channels_last)
        paths = train_paths + validation_paths
        keep, keep_features = self._cache(len(paths))
        self.feed = Feed(paths, self.config.resize, self.config.crop, keep=keep, report=report)
        self.train_indices = torch.arange(len(train_paths))
        self.validation_indices = torch.arange(len(train_paths), len(paths))
        self.optimizer = torch.optim.Adam(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=settings.lr,
            weight_decay=settings.weight_decay,
        )
        best = {"epoch": 0, "validation_loss": math.inf}
        self.position = {"epoch": 0, "step": 0, "loss_sum": 0.0, "best": best}
        self.history: list[dict] = []
        self.info = {
            "adfast": _version("adfast"),
            "model": settings.model,
            "config": self.config.to_dict(),
            "training": {**settings.to_dict(), "precision": self.precision},
            "data": {
                "root": str(root.resolve()),
                "train": [p.relative_to(root).as_posix() for p in train_paths],
                "validation": [p.relative_to(root).as_posix() for p in validation_paths],
                "sha256": dataset_sha256(root, paths),
            },
            "weights": weights,
            "versions": {
                "python": platform.python_version(),
                **{name: _version(name) for name in ("torch", "timm", "numpy")},
            },
            "finished": False,
        }
        if resume:
            self._resume(last)
        checkpoint.write_json(out / "config.json", self.info)
        self.features: list[Tensor] | None = None
        if keep_features:
            self.features = self._agn_features()

    def batches(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, list[Tensor] | None]]:
        """Yield images and, where they are kept, AGN's features of each index tensor in turn."""
        for indices, images in zip(order, self.feed.batches(order), strict=True):
            features = None
            if self.features is not None:
                features = [f[indices].to(self.device) for f in self.features]
            yield images.to(self.device), features

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the context in which the forward pass runs."""
        if self.precision == "f32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, torch.bfloat16)

    @torch.no_grad()
    def validate(self, *, exact: bool = False) -> tuple[float, list[float]]:
        """Return the loss (eq. 14) and lambda per layer over the validation images.

        lambda (eq. 18) is the ratio of the means of alpha_mse and alpha_cos. With `exact` all is
        computed in float32, kept features of another precision included.
        """
        self.model.eval()
        exact = exact and self.precision != "f32"
        mses, coses = [], []
        order = self.validation_indices.split(self.settings.batch)
        for images, features in self.batches(order):
            with contextlib.nullcontext() if exact else self.autocast():
                _, mse, cos = self.model.compare(images, None if exact else features)
            mses.append(torch.stack(mse, dim=1))
            coses.append(torch.stack(cos, dim=1))
            self.report.advance(len(images))
        mse, cos = torch.cat(mses).double().mean(dim=0), torch.cat(coses).double().mean(dim=0)
        alpha_scale = torch.where((mse > 0) & (cos > 0), mse / cos, 1.0)
        return 0.5 * mse.sum().item(), alpha_scale.tolist()

    def set_alpha_scale(self, measured: Sequence[float]) -> None:
        """Give the model the measured lambda, unless its config fixes one."""
        values = self.config.alpha_scale or measured
        self.model.alpha_scale.copy_(torch.tensor(values))

    def finish(self) -> dict:
        """Measure lambda of the best model in float32 and mark the run as finished."""
        from safetensors.torch import load_file

        best = self.out / "best.safetensors"
        self.model.load_state_dict(load_file(best))
        self.report.phase("measuring alpha_scale", len(self.validation_indices))
        loss, alpha_scale = self.validate(exact=True)
        self.report.close()
        self.set_alpha_scale(alpha_scale)
        checkpoint.save_model(best, self.model)
        self.info.update(
            best={**self.position["best"], "validation_loss_f32": loss},
            alpha_scale=self.model.alpha_scale.tolist(),
            finished=True,
        )
        checkpoint.write_json(self.out / "config.json", self.info)
        return self.info

    def _resume(self, last: Path) -> None:
        before = models.read_run_info(self.out)
        for key in ("model", "config", "data", "weights"):
            if before.get(key) != self.info[key]:
                raise ModelError(
                    f"cannot resume {self.out}: its {key} is not that of this training; "
                    "use the same settings and images, or another --out"
                )
        self.position = checkpoint.load_last(last, self.model, self.optimizer)
        history = checkpoint.read_history(self.out / "history.jsonl")
        self.history = [r for r in history if r["epoch"] <= self.position["epoch"]]
        self.report.message(f"resuming {self.out} after epoch {self.position['epoch']}")

    def _cache(self, images: int) -> tuple[bool, bool]:
        """Decide whether to keep images and features in memory."""
        wish = self.settings.cache
        height, width = self.config.crop
        image_bytes = images * 3 * height * width * 4
        values = zip(self.config.channels, self.config.map_sizes, strict=True)
        size = 4 if self.precision == "f32" else 2
        feature_bytes = images * sum(c * h * w for c, (h, w) in values) * size
        free = available_memory() // 2
        keep = wish in ("images", "features") or (wish == "auto" and image_bytes <= free)
        keep_features = wish == "features" or (
            wish == "auto" and image_bytes + feature_bytes <= free
        )
        total = keep * image_bytes + keep_features * feature_bytes
        what = "features and images" if keep_features else "images" if keep else "nothing"
        self.report.message(
            f"{images} good images, {self.precision} on {self.device}, keeping {what} in memory"
            + (f" ({total / 2**20:.0f} MiB)" if total else "; every epoch decodes anew")
        )
        return keep, keep_features

    @torch.no_grad()
    def _agn_features(self) -> list[Tensor]:
        """AGN never changes and the images neither: its features are computed once.

        They have the precision of the forward pass, so the training is the same without them.
        """
        order = torch.arange(len(self.feed)).split(self.settings.batch)
        kept: list[Tensor] | None = None
        self.report.phase("features of the frozen backbone", len(self.feed))
        for indices, images in zip(order, self.feed.batches(order), strict=True):
            with self.autocast():
                features = self.model.agn_features(images.to(self.device))
            if kept is None:
                kept = [
                    torch.empty(
                        (len(self.feed), *f.shape[1:]),
                        dtype=f.dtype,
                        memory_format=torch.channels_last,
                    )
                    for f in features
                ]
            for store, feature in zip(kept, features, strict=True):
                store[indices] = feature.cpu()
            self.report.advance(len(images))
        self.report.close()
        return kept


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, for the loop to stop between two steps.

    In the middle of a step the parameters are half updated. A second Ctrl-C interrupts at once.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number, frame) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)


def _check_out(out: Path, resume: bool) -> None:
    if not resume and (out / "last.safetensors").is_file():
        raise AdfastError(
            f"{out} holds a training already; go on with --resume or choose another --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise AdfastError(
            f"cannot write the run folder {out}: {error.strerror}; choose another --out"
        ) from error


def _device(wish: str) -> str:
    if wish == "cuda" and not torch.cuda.is_available():
        raise ModelError("device is cuda, but PyTorch finds none; use --device cpu")
    return "cuda" if wish != "cpu" and torch.cuda.is_available() else "cpu"


def _precision(wish: str, device: str) -> str:
    if wish != "auto":
        return wish
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "f32"
    abilities = torch.cpu.get_capabilities()
    return "bf16" if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else "f32"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
