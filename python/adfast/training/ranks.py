"""Data parallel: the processes that torchrun started train one model together.

Every process (rank) has the whole model and all images. Of each batch it takes its share, and the
gradients of the shares are added up, so that a step is that of one process up to rounding; only
BatchNorm's statistics are those of the share. Adding up is one message after the backward pass, not
DistributedDataParallel: shares of unequal size, empty ones and parameters that a config leaves
unused then need no special care, and the models are small. Without torchrun there is one rank, and
none of this does anything.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from adfast.errors import AdfastError

# torchrun ends the others when a rank dies; this is for a rank that hangs.
TIMEOUT = timedelta(minutes=30)


def rank() -> int:
    """Return this process's place, 0 without torchrun: before a `Ranks` is made."""
    return int(os.environ["RANK"]) if dist.is_torchelastic_launched() else 0


class Ranks:
    """The place of this process among those that train together.

    Attributes:
        rank: 0 is the one that writes and talks.
        size: of how many.
        local: how many of them share this machine's memory and processors.

    Args:
        device: "cpu" (gloo) or "cuda" (NCCL, one GPU per rank).

    Raises:
        AdfastError: the others cannot be reached, or there are fewer GPUs than ranks.
    """

    def __init__(self, device: str) -> None:
        self.rank, self.size, self.local = 0, 1, 1
        if not dist.is_torchelastic_launched():
            return
        self.rank, self.size = rank(), int(os.environ["WORLD_SIZE"])
        self.local = int(os.environ["LOCAL_WORLD_SIZE"])
        if device == "cuda":
            if self.local > torch.cuda.device_count():
                raise AdfastError(
                    f"torchrun started {self.local} processes, but PyTorch finds "
                    f"{torch.cuda.device_count()} GPUs; use as many processes as GPUs"
                )
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not dist.is_initialized():
            with self._together():
                dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
            atexit.register(dist.destroy_process_group)
        self._device = device

    def share(self, indices: Tensor) -> tuple[Tensor, float]:
        """Return this rank's part of a batch, and how large it is: 1 for all of it.

        A rank that goes without an image takes the first at size 0, so that all do the same.
        """
        mine = indices.tensor_split(self.size)[self.rank]
        return (mine, len(mine) / len(indices)) if len(mine) else (indices[:1], 0.0)

    def add_gradients(self, model: nn.Module, loss: Tensor, stop: bool) -> tuple[float, bool]:
        """Add up the gradients of all ranks.

        Args:
            model: after the backward pass of `loss`.
            loss: this rank's part of the batch's loss, a scalar.
            stop: whether this rank was told to stop.

        Returns:
            The batch's loss, and whether any rank was told to stop.
        """
        if self.size == 1:
            return loss.item(), stop
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        rest = torch.stack([loss.detach().float(), loss.new_tensor(stop, dtype=torch.float32)])
        total = torch.cat([*(grad.reshape(-1) for grad in grads), rest])
        with self._together():
            dist.all_reduce(total)
        for grad, piece in zip(grads, total[:-2].split([g.numel() for g in grads]), strict=True):
            grad.copy_(piece.view(grad.shape))
        return total[-2].item(), total[-1].item() > 0

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Add up tensors of all ranks in place."""
        if self.size > 1:
            for tensor in tensors:
                with self._together():
                    dist.all_reduce(tensor)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any rank, when all have come here."""
        count = torch.tensor(float(flag), device=self._device if self.size > 1 else None)
        self.add([count])
        return count.item() > 0

    def copy_first(self, model: nn.Module) -> None:
        """Give every rank the parameters and buffers of the first."""
        if self.size > 1:
            for tensor in model.state_dict().values():
                dense = tensor.contiguous()
                with self._together():
                    dist.broadcast(dense, 0)
                tensor.copy_(dense)

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise AdfastError(
                f"lost the other processes of this training: one of them ended, and says why; "
                f"go on with --resume ({str(error).splitlines()[0]})"
            ) from error
