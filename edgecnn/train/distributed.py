"""Several processes that train one network together, as torchrun starts them; one process alone needs none of it.

    torchrun --standalone --nproc-per-node 2 -m edgecnn train DATA -o RUN

Every process has its own copy of the network and takes a contiguous share of each batch: ``batch_size`` is the batch
over all processes. All of them draw the same order and augment the *whole* batch with the same random numbers before
they take their share. That repeats cheap work, but nothing in the augmentation has to know of processes, pictures can
be mixed across shares (mixup, CutMix), and any number of processes sees the very pictures that one would see. Where
pictures are streamed, each process decodes its share of a batch, which is not cheap, and the pixels are exchanged.
DistributedDataParallel averages the gradients (Li et al., arXiv:2006.15704).

The process of rank 0, the leader, writes and prints everything; the others need to reach the same folder. When one
process fails, the first to say so in the store that all share is the one that is heard: the others end without a word.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from edgecnn.errors import RuntimeFailure, UsageError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
FAILED = "edgecnn/failed"
GRACE_S = 1.0  # torchrun ends all when it sees the first process gone: that one must have spoken by then
FEWEST = 2  # pictures that a batch normalization can have statistics of
LOST = re.compile("connection (closed|reset|refused)|broken pipe|socket|timed out|timeout|remote process", re.I)


@dataclass(frozen=True)
class World:
    """The processes that train together, seen from one of them; by default it is alone and nothing is exchanged."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leader(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def device(self, kind: str) -> torch.device:
        """``cpu``, or the CUDA device that belongs to this process. Raises UsageError where there are too few."""
        if kind != "cuda" or self.size == 1:
            return torch.device(kind)
        if self.local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"process {self.local_rank + 1} on this machine has no GPU: there are {torch.cuda.device_count()}",
                hint="start at most as many processes (--nproc-per-node) as there are GPUs, or use device cpu",
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def check_batch(self, pictures: int, accumulate: int) -> None:
        """Raise UsageError where a batch leaves too few pictures to each part of each process."""
        if pictures // self.size // accumulate < FEWEST:
            raise UsageError(
                f"{pictures} pictures per step are too few for {self.size} process(es) times {accumulate} part(s): "
                f"each part needs {FEWEST}",
                hint="a larger batch_size (it counts over all processes), fewer processes, or a smaller accumulate",
            )

    def share(self, n: int) -> slice:
        """Which of ``n`` pictures are this process's: a contiguous part, all parts of one size to within 1."""
        return _cut(slice(0, n), self.size, self.rank)

    def spread(self, model: nn.Module) -> nn.Module:
        """``model`` with its gradients averaged over the processes; its weights become the leader's everywhere."""
        return model if self.size == 1 else DistributedDataParallel(model)

    @contextmanager
    def gradients(self, network: nn.Module, last: bool) -> Iterator[None]:
        """Around a forward and backward pass: gradients are exchanged in the last one of a step only."""
        with nullcontext() if last or not isinstance(network, DistributedDataParallel) else network.no_sync():
            yield

    @torch.no_grad()
    def average_buffers(self, model: nn.Module) -> None:
        """Make the batch normalization statistics the mean over all processes: the same everywhere, as weights are."""
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if self.size == 1 or not buffers:
            return
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        dist.all_reduce(flat)
        flat /= self.size
        start = 0
        for buffer in buffers:
            buffer.copy_(flat[start : start + buffer.numel()].view_as(buffer))
            start += buffer.numel()

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes, in float64; the same bits everywhere."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return [float(each) for each in total]

    def mean(self, values: Sequence[float], weight: int) -> list[float]:
        """Each value's mean over all processes, this one's counted ``weight`` times."""
        if self.size == 1:
            return list(values)
        *totals, weights = self.sums([*(value * weight for value in values), weight])
        return [total / weights for total in totals]

    def whole(self, part: Tensor, n: int) -> Tensor:
        """All ``n`` rows of something of which every process has its ``share``, everywhere; any number may share."""
        if self.size == 1:
            return part
        rows = part.new_empty((n, *part.shape[1:]))
        for rank in range(self.size):
            theirs = rows[_cut(slice(0, n), self.size, rank)]
            if rank == self.rank:
                theirs.copy_(part)
            dist.broadcast(theirs, src=rank)
        return rows

    def gathered(self, part: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rows that the processes have of something (n, K), one after the other, everywhere."""
        if self.size == 1:
            return part
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, part)
        return np.concatenate(parts)

    def leaders(self, value: Any) -> Any:
        """What the leader has for ``value``, everywhere."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def agree(self, value: Any, problem: str) -> None:
        """Raise UsageError with ``problem`` where a process has another value than the leader."""
        if any(self.sums([float(value != self.leaders(value))])):
            raise UsageError(problem, hint="the processes need the same settings and a RUN folder that all of them see")

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(()))  # over gloo also where the network is on GPUs

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The leader does what is inside before the others do it."""
        if not self.leader:
            self.barrier()
        yield
        if self.leader:
            self.barrier()


def parts(share: slice, count: int) -> list[slice]:
    """A share in ``count`` contiguous parts, of one size to within 1."""
    return [_cut(share, count, number) for number in range(count)]


def _cut(whole: slice, count: int, number: int) -> slice:
    n = whole.stop - whole.start
    return slice(whole.start + number * n // count, whole.start + (number + 1) * n // count)


@contextmanager
def joined() -> Iterator[World]:
    """The processes that torchrun started; this one alone where it did not start any.

    An exception that leaves this in several processes leaves as it is in the first one only; the others exit. Raises
    UsageError when the processes cannot find each other, RuntimeFailure when another one is gone.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) <= 1:
        yield World()
        return
    world, store = _join()
    try:
        yield world
    except BaseException as error:
        if not _first_to_fail(store):
            time.sleep(GRACE_S)
            raise SystemExit(getattr(error, "exit_code", 1)) from None
        if isinstance(error, RuntimeError) and LOST.search(str(error)):
            raise RuntimeFailure(
                f"another of the {world.size} processes ended without a word, so process {world.rank} cannot go on",
                hint="was it killed, for example for its memory? The same command goes on from the last checkpoint; "
                "torchrun --max-restarts 1 does so by itself",
            ) from error
        raise
    dist.destroy_process_group()


def _join() -> tuple[World, Store]:
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"WORLD_SIZE asks for several processes, but {', '.join(missing)} is not set",
            hint="start them with: torchrun --standalone --nproc-per-node 2 -m edgecnn train DATA -o RUN",
        )
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, rank, size = next(rendezvous("env://"))
        # The store outlives a restart: what the processes before wrote, their addresses above all, must not be found.
        store = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        on_gpus = torch.cuda.is_available() and dist.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"the processes could not meet at {place}: {str(error).splitlines()[0]}",
            hint="torchrun --standalone picks a free port on one machine; for several, give --master-port another one",
        ) from error
    return World(rank, size, int(os.environ["LOCAL_RANK"])), store


def _first_to_fail(store: Store) -> bool:
    """Whether no other process has failed before: a count in the store, which outlives every one of them."""
    with suppress(RuntimeError):
        return int(store.add(FAILED, 1)) == 1
    return True


class _SumOverAll(torch.autograd.Function):
    """The sum of a tensor over all processes, which all of them go on with: so the gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def sum_over_all(x: Tensor) -> Tensor:
    """``x`` summed over all processes, with gradients."""
    total: Tensor = _SumOverAll.apply(x)
    return total
