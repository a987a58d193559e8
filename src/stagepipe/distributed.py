"""One network trained by several processes, each with its own device and its own rows of every batch.

Alone, all of this does nothing. Together, every process computes the loss of the whole batch from the logits of all:
Lovasz, Dice and the hardest pixels are no means over images. Only its own rows have a gradient there, so what the
processes' gradients add up to is the gradient of the whole.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import timm.layers
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from stagepipe import launch
from stagepipe.data.training import EpochOrders
from stagepipe.errors import TrainingError

Heads = Callable[[Tensor], dict[str, Tensor]]
Row = TypeVar("Row")
TIMEOUT = timedelta(minutes=30)
"""that a process waits for another one"""


@dataclass
class Ranks:
    """How many processes train together, and which of them this is."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, logs and shows bars."""
        return self.rank == 0

    @property
    def key(self) -> tuple[int, ...]:
        """What seeds this process's own draws (dropout) beside what seeds those of one process; the first has none."""
        return () if self.first else (self.rank,)

    def own(self, rows: Sequence[Row]) -> Sequence[Row]:
        """This process's share of some rows: every `count`-th, from `rank` on."""
        return rows[self.rank :: self.count]

    def padded(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows with their first ones again behind them, so that all processes have equally many, one at least."""
        return [rows[index % len(rows)] for index in range(-(-len(rows) // self.count) * self.count)]

    def gathered(self, own: Tensor, size: int) -> Tensor:
        """The `size` rows [size, ...] of all processes in their order, of this one's [size / count, ...].

        Where the division has a remainder the first processes have one row more. A gradient reaches only the own ones.
        """
        if self.count == 1:
            return own
        most = -(-size // self.count)
        mine = F.pad(own, (0, 0) * (own.dim() - 1) + (0, most - len(own))).contiguous()
        shares = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(shares, mine.detach())
        shares[self.rank] = mine
        return torch.stack(shares, dim=1).flatten(0, 1)[:size]

    def agreed(self, number: int) -> int:
        """The largest number that any process gives."""
        if self.count == 1:
            return number
        largest = torch.tensor(number)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def part(self, status: int = 0) -> None:
        """End what is done together, when all are there: the first process goes on alone, the others exit."""
        if self.count == 1:
            return
        self.agreed(0)
        dist.destroy_process_group()
        if not self.first:
            raise SystemExit(status)
        self.count = 1


def join() -> Ranks:
    """Meet the other processes that `launch.run` started; alone, return at once."""
    place = launch.place()
    if place is None:
        return Ranks()
    store = dist.TCPStore(
        "127.0.0.1", place.port, place.count, is_master=place.rank == 0, timeout=TIMEOUT,
        master_listen_fd=place.listener if place.rank == 0 else None, use_libuv=False,
    )  # fmt: skip
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.count, timeout=TIMEOUT)
    return Ranks(place.rank, place.count)


@contextmanager
def losses_named() -> Iterator[None]:
    """Raise what follows from the end of another process as a TrainingError: it is the other one that knows why."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo/transport" in str(error):
            raise TrainingError("another process of this training has ended, so this one does too") from error
        raise


# -------------------------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class SharedOrders(EpochOrders):
    """Which items make up this process's rows of each batch of each epoch.

    TrainingError if there are fewer rows in a batch than processes.
    """

    ranks: Ranks = field(default_factory=Ranks)

    def __post_init__(self) -> None:
        count = self.ranks.count
        smallest = 1 if count == 1 else min(self.batch_size(epoch) for epoch in range(self.epochs))
        if smallest < count:
            _, stage, run, phase, fold = self.key
            raise TrainingError(
                f"{stage}/{run}/{phase}, fold {fold}: a batch of {smallest} can't be divided among {count} GPUs; write "
                f"--set-resources train:gpu={smallest} (or the same in the profile), or a larger batch"
            )

    def batches(self, epoch: int) -> list[list[tuple[int, int, int]]]:
        """As of EpochOrders. Addresses say which rows of the whole batch they are, so augmentation draws the same."""
        return [list(self.ranks.own(batch)) for batch in super().batches(epoch)]

    def batch_size(self, epoch: int) -> int:
        """Rows that all processes together have of each batch of an epoch."""
        return self.images(epoch) // self.steps(epoch)


# ------------------------------------------------------------------------------------------------------------ gradients


class _Chosen(nn.Module):
    """The heads that have a loss, as a module: what DistributedDataParallel can wrap."""

    def __init__(self, network: nn.Module, forward: Heads, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.chosen = lambda images: {name: heads for name, heads in forward(images).items() if name in names}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.chosen(images)


class Replica:
    """The network as one of several processes trains it: `forward`, and how gradients come to be those of all."""

    def __init__(self, ranks: Ranks, network: nn.Module, forward: Heads, names: Sequence[str]) -> None:
        self.count = ranks.count
        self.forward: Any = forward
        if ranks.count == 1:
            return
        device = next(network.parameters()).device
        _normalise_together(network, device)
        with warnings.catch_warnings():
            # torch from 2.15 on has another name for it, which earlier ones don't know.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.forward = DistributedDataParallel(
                _Chosen(network, forward, names),
                device_ids=[device.index] if device.type == "cuda" else None,
                broadcast_buffers=False,  # they are the same everywhere
                find_unused_parameters=True,  # frozen encoders, and what of an encoder no head uses
                gradient_as_bucket_view=True,
            )

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """The heads that have a loss, of this process's images."""
        heads: dict[str, Tensor] = self.forward(images)
        return heads

    def accumulating(self, ends_group: bool) -> AbstractContextManager[None]:
        """Around forward and backward of a batch: processes exchange gradients only where a group of batches ends."""
        return nullcontext() if ends_group or self.count == 1 else self.forward.no_sync()

    def backward(self, loss: Tensor, batches: int) -> None:
        """Gradients of the loss over a number of batches; DistributedDataParallel takes the mean over processes, which
        is their sum over `count`."""
        (loss / (batches / self.count)).backward()


# -------------------------------------------------------------------------------------------------- batch normalisation


def _normalise_together(network: nn.Module, device: torch.device) -> None:
    """Let batch normalisation take its mean and variance over the rows of all processes; weights keep their names."""
    if device.type == "cuda":
        # timm's keeps the activations of timm's layers, which torch's would drop.
        timm.layers.convert_sync_batchnorm(network)
        return
    for layer in network.modules():  # torch has no such layer on a CPU
        if isinstance(layer, _BatchNorm):
            layer.forward = partial(_normalised_on_cpu, layer, layer.forward)  # type: ignore[method-assign]


def _normalised_on_cpu(layer: Any, alone: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    if not (layer.training and dist.is_initialized()):
        return alone(images)
    pixels = images.float()
    axes, shape = [0, *range(2, pixels.dim())], [1, -1] + [1] * (pixels.dim() - 2)
    size = torch.tensor(pixels.numel() // pixels.shape[1])
    dist.all_reduce(size)
    mean = _sum_of_all(pixels.sum(axes)) / size
    centred = pixels - mean.view(shape)
    variance = _sum_of_all(centred.square().sum(axes)) / size
    if layer.track_running_stats:
        _track(layer, mean.detach(), variance.detach() * size / (size - 1))
    normal = centred * torch.rsqrt(variance + layer.eps).view(shape)
    if layer.affine:
        normal = normal * layer.weight.view(shape) + layer.bias.view(shape)
    normal = normal.to(images.dtype)
    return layer.act(layer.drop(normal)) if isinstance(layer, timm.layers.BatchNormAct2d) else normal


@torch.no_grad()
def _track(layer: Any, mean: Tensor, variance: Tensor) -> None:
    layer.num_batches_tracked += 1
    weight = 1 / layer.num_batches_tracked if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean, weight)
    layer.running_var.lerp_(variance, weight)


def _sum_of_all(own: Tensor) -> Tensor:
    result: Tensor = _SumOfAll.apply(own)
    return result


class _SumOfAll(torch.autograd.Function):
    """Sum over processes, whose gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(_: Any, own: Tensor) -> Tensor:
        return _reduced(own)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _reduced(gradient)


def _reduced(own: Tensor) -> Tensor:
    total = own.clone()
    dist.all_reduce(total)
    return total
