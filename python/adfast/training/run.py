"""A training's model, optimizer, images and position: everything around the loop."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adfast import models
from adfast._version import __version__
from adfast.data.folder import dataset_sha256, good_images, split_good
from adfast.errors import AdfastError, ModelError
from adfast.training import checkpoint
from adfast.training.board import Board, writer_class
from adfast.training.feed import WORKERS, Feed, available_memory
from adfast.training.labelled import Labelled, anomalies, tested_with
from adfast.training.ranks import Ranks
from adfast.training.reporting import Reporter
from adfast.training.resume import begun as resume_info
from adfast.training.resume import check as check_resume
from adfast.training.resume import stalled
from adfast.training.settings import TrainSettings


@dataclass(frozen=True)
class Step:
    """What this process computes of a step.

    Attributes:
        images: [B, 3, H, W], RGB in [0, 1].
        features: frozen features of them where they are kept, else None.
        share: of the step's images; 1 unless several processes train together, or some images are
            labelled.
        size: good images of the step in all processes.
        labelled: if there are any in this process's part, one entry: images of known anomalies,
            their labels, and their share of the step.
    """

    images: Tensor
    features: list[Tensor] | None
    share: float
    size: int
    labelled: Sequence[tuple[Tensor, Tensor, float]] = ()


OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Run:
    """One training. Everything that can fail early fails in the constructor.

    Args:
        settings: see `TrainSettings`.
        out: the run folder.
        resume: restore the state of last.safetensors, if there is one.
        report: is told of the progress.
    """

    def __init__(self, settings: TrainSettings, out: Path, resume: bool, report: Reporter) -> None:
        self.settings, self.out, self.report = settings, out, report
        self.device = _device(settings.device)
        self.ranks = Ranks(self.device)
        self.first = self.ranks.rank == 0  # the one that writes
        self.precision = _precision(settings.precision, self.device)
        last = out / "last.safetensors"
        before = resume_info(settings, out) if resume and last.is_file() else None
        root = Path(settings.data)
        train_paths, validation_paths = split_good(
            good_images(root, settings.list_file), settings.fraction, settings.seed
        )
        _check_out(out, before is not None)
        if settings.tensorboard:
            writer_class()  # or an error now
        if self.first:
            for leftover in out.glob(".*.safetensors"):  # of a training killed while it wrote
                leftover.unlink()
        # A resumed run has the config it settled on before its first epoch.
        stated = before["config"] if before else settings.config
        config = models.config_class(settings.model).from_dict(stated)
        torch.manual_seed(settings.seed)
        self.model, weights = models.model_class(settings.model).from_weights(
            config, settings.weights
        )
        self.model.to(self.device, memory_format=torch.channels_last)
        paths = train_paths + validation_paths
        self.info = {
            "adfast": __version__,
            "model": settings.model,
            "config": {},
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
        if settings.labelled:
            self.info["data"]["labelled"] = self._labelled_info(Path(settings.labelled), root)
        if before:
            check_resume(before, self.info, out)
        self.labelled, self.labelled_batch = self._labelled(), 0
        if self.labelled:  # images of a step, at least one of each kind
            wish = round(self.model.config.labelled_share * settings.batch)
            self.labelled_batch = min(max(1, wish), max(1, settings.batch - 1))
        self.batch = max(1, settings.batch - self.labelled_batch)  # good images of a step
        keep, keep_features = self._cache(len(paths))
        config = self.model.config
        workers = settings.workers
        if workers is None:
            workers = max(1, WORKERS // self.ranks.local)
        self.feed = Feed(
            paths,
            config.resize,
            config.crop,
            keep=keep,
            workers=workers,
            report=report,
            pixel_format=settings.pixel_format,
        )
        self.train_indices = torch.arange(len(train_paths))
        self.validation_indices = torch.arange(len(train_paths), len(paths))
        self.features = self._frozen_features() if keep_features else None
        self.model.prepare(self._training_features())
        self.model.to(self.device, memory_format=torch.channels_last)  # what it may have added
        self.optimizer = OPTIMIZERS[settings.optimizer](
            [p for p in self.model.parameters() if p.requires_grad],
            lr=settings.lr,
            weight_decay=settings.weight_decay,
        )
        best = {"epoch": 0, "validation_loss": math.inf}
        self.position = {"epoch": 0, "step": 0, "loss_sum": 0.0, "best": best}
        self.history: list[dict] = []
        self.info["config"] = self.model.config.to_dict()
        if before:
            self._resume(last)
        self.ranks.copy_first(self.model)
        self.ranks.any(False)  # all have read the config.json of before, if there was one
        if self.first:
            checkpoint.write_json(out / "config.json", self.info)
        self.shown = len(train_paths) * self.model.visits  # images of an epoch
        self.steps = math.ceil(self.shown / self.batch)  # per epoch
        per_epoch = self.shown + len(validation_paths)
        done = self.position["epoch"] * per_epoch + self.position["step"] * self.batch
        report.phase("training", settings.epochs * per_epoch, done)
        self.board: Board | None = None
        if settings.tensorboard and self.first:
            self.board = Board(out / "tensorboard", self.position["epoch"])
        self.began, self.trained = time.monotonic(), 0

    def batches(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, list[Tensor] | None]]:
        """Yield images and, where they are kept, frozen features of each index tensor in turn."""
        for indices, images in zip(order, self.feed.batches(order), strict=True):
            features = None
            if self.features is not None:
                features = [f[indices].to(self.device) for f in self.features]
            yield images.to(self.device), features

    def steps_of(self, epoch: int) -> Iterator[Step]:
        """Yield what is left of an epoch."""
        self.report.title(f"epoch {epoch + 1}/{self.settings.epochs}")
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
        shuffled = torch.randperm(self.shown, generator=generator) % len(self.train_indices)
        batches = self.train_indices[shuffled].split(self.batch)
        left = batches[self.position["step"] :]
        shares = [self.ranks.share(indices) for indices in left]
        mine = self.batches([indices for indices, _ in shares])
        for (images, features), (_, share), whole in zip(mine, shares, left, strict=True):
            if not self.labelled:
                yield Step(images, features, share, len(whole))
                continue
            place = self._place(epoch)
            drawn = self.labelled.draw(
                self.labelled_batch, torch.Generator().manual_seed(place % 2**63)
            )
            chosen, part = self.ranks.share(drawn)
            anomalous = self.labelled_batch / (self.labelled_batch + self.batch)
            labelled = (
                self.labelled.images[chosen].to(self.device),
                self.labelled.labels[chosen].to(self.device),
                part * anomalous,
            )
            yield Step(images, features, share * (1 - anomalous), len(whole), [labelled])

    def begin_step(self, epoch: int) -> None:
        """Set the rate of the next step and the seed of its dropout."""
        self.optimizer.param_groups[0]["lr"] = self.learning_rate(epoch)
        # From its place in the training, so that a resumed one drops what it would have dropped.
        torch.manual_seed((self._place(epoch) + self.ranks.rank * 0x9E3779B97F4A7C15) % 2**63)

    def _place(self, epoch: int) -> int:
        """Return a number of the next step, for what it draws at random."""
        return self.settings.seed * 1_000_003 + epoch * self.steps + self.position["step"]

    def learning_rate(self, epoch: int) -> float:
        """Return the rate of the next step; see `TrainSettings`."""
        settings = self.settings
        if settings.schedule == "exponential":
            step = epoch * self.steps + self.position["step"]
            return settings.lr * settings.lr_decay ** (step / (settings.epochs * self.steps))
        dropped = settings.schedule == "step" and epoch >= settings.lr_drop * settings.epochs
        return settings.lr * (settings.lr_decay if dropped else 1.0)

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the context in which the forward pass runs."""
        if self.precision == "f32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, torch.bfloat16)

    def end_step(self, images: int, loss: float) -> None:
        """Count a step; a ModelError says if its loss is not finite."""
        if not math.isfinite(loss):
            raise ModelError(f"loss is {loss}; lower --lr, or train with --precision f32")
        self.position["step"] += 1
        self.position["loss_sum"] += loss * images
        self.trained += images
        seen = min(self.position["step"] * self.batch, self.shown)
        self.report.advance(images, self.position["loss_sum"] / seen)

    def end_epoch(self, epoch: int) -> None:
        """Validate, and save the state and, if it is the best so far, the model."""
        speed = self.trained / max(time.monotonic() - self.began, 1e-9)
        self.ranks.copy_first(self.model)  # BatchNorm's statistics differ
        validation, concluded = self.validate()
        if not math.isfinite(validation):
            raise ModelError(f"validation loss is {validation}; lower --lr")
        now = time.monotonic()
        record = {
            "epoch": epoch + 1,
            "loss": self.position["loss_sum"] / self.shown,
            "validation_loss": validation,
            "lr": self.learning_rate(epoch),
            **concluded,
            "seconds": round(now - self.began, 3),
        }
        self.began, self.trained = now, 0
        if validation < self.position["best"]["validation_loss"]:
            self.position["best"] = {"epoch": epoch + 1, "validation_loss": validation}
            if self.first:
                checkpoint.save_model(self.out / "best.safetensors", self.model)
        self.history.append(record)
        if self.first:
            # Before `last`: after a kill in between, the epoch is done again, its line replaced.
            checkpoint.write_history(self.out / "history.jsonl", self.history)
        if self.board:
            self.board.epoch(record, speed)
        self.position.update(epoch=epoch + 1, step=0, loss_sum=0.0)
        self.save_last()
        self.report.message(
            f"epoch {epoch + 1}/{self.settings.epochs}: loss {record['loss']:.5g}, "
            f"validation {validation:.5g}, {record['seconds']:.1f} s"
        )

    def stalled(self) -> bool:
        """Whether validation has not improved for as many epochs as the settings wait."""
        done, best = self.position["epoch"], self.position["best"]["epoch"]
        return stalled(self.settings.patience, done, best)

    def save_last(self) -> None:
        """Save the state to resume from."""
        if self.first:
            path = self.out / "last.safetensors"
            checkpoint.save_last(path, self.model, self.optimizer, self.position)

    @torch.no_grad()
    def validate(self, *, exact: bool = False) -> tuple[float, dict]:
        """Return the mean loss over the validation images and what the model concludes from them.

        With `exact` all is computed in float32, kept features of another precision included.
        """
        self.model.eval()
        exact = exact and self.precision != "f32"
        measured: dict[str, Tensor] = {}
        count, size, rank = len(self.validation_indices), self.ranks.size, self.ranks.rank
        batches = torch.arange(count).split(self.settings.batch)
        # Whole batches to each rank: what a model draws at random for one is then always the same.
        mine = batches[rank::size]
        # A rank without one still has to learn what is measured.
        todo = mine or batches[:1]
        found_in = self.batches([self.validation_indices[rows] for rows in todo])
        for k, (rows, (images, features)) in enumerate(zip(todo, found_in, strict=True)):
            with contextlib.nullcontext() if exact else self.autocast():
                found = self.model.measure(images, None if exact else features)
            for name, values in found.items():
                shape = (count, *values.shape[1:])
                whole = measured.setdefault(name, values.new_zeros(shape, dtype=torch.float64))
                if mine:
                    whole[rows] = values.double()
            self.report.advance(sum(map(len, batches[k * size : (k + 1) * size])))
        self.ranks.add(measured.values())
        loss = measured["loss"].mean().item()
        if self.labelled:
            anomalous = self.labelled_batch / (self.labelled_batch + self.batch)
            loss = (1 - anomalous) * loss + anomalous * self._labelled_loss(exact)
        return loss, self.model.conclude(measured)

    def _labelled_loss(self, exact: bool) -> float:
        """Return the mean loss of the labelled images that are not trained on."""
        losses = []
        for chosen in self.labelled.held.split(self.settings.batch):
            with contextlib.nullcontext() if exact else self.autocast():
                images, labels = self.labelled.images[chosen], self.labelled.labels[chosen]
                losses.append(
                    self.model.labelled_losses(images.to(self.device), labels.to(self.device))
                )
        return torch.cat(losses).double().mean().item()

    def finish(self) -> dict:
        """Validate the best model in float32 and mark the run as finished."""
        if self.board:
            self.board.close()
        best = self.out / "best.safetensors"
        if self.first:
            checkpoint.load_model(best, self.model)
        self.ranks.copy_first(self.model)
        self.model.begin_epoch(self.position["best"]["epoch"] - 1, self.settings.epochs)
        self.report.phase("validating the best model", len(self.validation_indices))
        loss, concluded = self.validate(exact=True)
        self.report.close()
        done = self.position["epoch"]
        early = done < self.settings.epochs
        if early:
            self.report.message(
                f"stopped after epoch {done}: no better validation loss for "
                f"{self.settings.patience} epochs"
            )
        self.info.update(
            best={**self.position["best"], "validation_loss_f32": loss},
            **concluded,
            stopped={"epoch": done, "patience": self.settings.patience} if early else None,
            finished=True,
        )
        if self.first:
            checkpoint.save_model(best, self.model)
            checkpoint.write_json(self.out / "config.json", self.info)
        self.ranks.any(False)  # none leaves while another still writes or listens
        return self.info

    def _resume(self, last: Path) -> None:
        self.position = checkpoint.load_last(last, self.model, self.optimizer)
        history = checkpoint.read_history(self.out / "history.jsonl")
        self.history = [r for r in history if r["epoch"] <= self.position["epoch"]]
        self.report.message(f"resuming {self.out} after epoch {self.position['epoch']}")

    def _cache(self, images: int) -> tuple[bool, bool]:
        """Decide whether to keep images and features in memory."""
        wish = self.settings.cache
        crop = self.model.config.crop
        image_bytes = images * 3 * math.prod(crop) * 4
        sample = []
        if self.model.keeps_features:
            with torch.no_grad(), self.autocast():
                sample = self.model.frozen_features(torch.zeros(1, 3, *crop, device=self.device))
        feature_bytes = images * sum(f.numel() * f.element_size() for f in sample)
        free = available_memory() // 2 // self.ranks.local
        keep = wish in ("images", "features") or (wish == "auto" and image_bytes <= free)
        keep_features = bool(sample) and (
            wish == "features" or (wish == "auto" and image_bytes + feature_bytes <= free)
        )
        total = keep * image_bytes + keep_features * feature_bytes
        what = "features and images" if keep_features else "images" if keep else "nothing"
        self.report.message(
            f"{images} good images, {self.precision} on {self._where()}, keeping {what} in memory"
            + (f" ({total / 2**20:.0f} MiB)" if total else "; every epoch decodes anew")
        )
        return keep, keep_features

    def _labelled_info(self, folder: Path, data: Path) -> dict:
        """Describe the labelled images for config.json; say if they are test images too."""
        if not self.model.takes_labelled:
            raise ModelError(f"{self.settings.model} does not learn from labelled images")
        paths = [path for path, _ in anomalies(folder)]
        tested = tested_with(data, paths)
        if tested:
            self.report.message(
                f"warning: {tested} of the {len(paths)} labelled images are test images of {data}: "
                "what is trained on must not be tested on (adfast eval --list leaves them out)"
            )
        return {
            "root": str(folder.resolve()),
            "images": [path.relative_to(folder).as_posix() for path in paths],
            "sha256": dataset_sha256(folder, paths),
            "in_test_set": tested,
        }

    def _labelled(self) -> Labelled | None:
        settings, config = self.settings, self.model.config
        if settings.labelled is None:
            if self.model.takes_labelled and config.anomalies == 0:
                raise ModelError(
                    f"[{settings.model}] anomalies is 0 and there are no labelled images: nothing "
                    "to learn from; give --labelled DIR, or a share of confetti"
                )
            return None
        return Labelled(
            settings.labelled,
            masks=config.labels == "pixel",
            resize=config.resize,
            crop=config.crop,
            grid=config.grid,
            fraction=settings.fraction,
            seed=settings.seed,
            report=self.report,
            pixel_format=settings.pixel_format,
        )

    def _where(self) -> str:
        size = self.ranks.size
        return self.device if size == 1 else f"{self.device} in {size} processes"

    @torch.no_grad()
    def _frozen_features(self) -> list[Tensor]:
        """Compute once what never changes: the frozen features of all images.

        They have the precision of the forward pass, so the training is the same without them.
        """
        order = torch.arange(len(self.feed)).split(self.settings.batch)
        kept: list[Tensor] | None = None
        self.report.phase("features of the frozen backbone", len(self.feed))
        for indices, images in zip(order, self.feed.batches(order), strict=True):
            with self.autocast():
                features = self.model.frozen_features(images.to(self.device))
            if kept is None:
                kept = [
                    torch.empty(
                        (len(self.feed), *f.shape[1:]),
                        dtype=f.dtype,
                        memory_format=_memory_format(f),
                    )
                    for f in features
                ]
            for store, feature in zip(kept, features, strict=True):
                store[indices] = feature.cpu()
            self.report.advance(len(images))
        self.report.close()
        return kept

    @torch.no_grad()
    def _training_features(self) -> Iterator[list[Tensor]]:
        """Yield the frozen features of the training images, on the CPU."""
        for images, features in self.batches(self.train_indices.split(self.settings.batch)):
            if features is None:
                with self.autocast():
                    features = self.model.frozen_features(images)
            yield [f.cpu() for f in features]


def _memory_format(features: Tensor) -> torch.memory_format:
    return torch.channels_last if features.dim() == 4 else torch.contiguous_format


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
    # Of Intel's processors those without AMX know the instruction but multiply in f32 faster: 139
    # to 82 GFLOP/s a core of a Xeon, 91 to 132 ms an image for ADTR at 224. AMD's gain.
    abilities = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch: f32
    amd = abilities.get("avx512_bf16") and abilities.get("cpu_name", "").startswith("AMD")
    return "bf16" if amd or abilities.get("amx_bf16") else "f32"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
