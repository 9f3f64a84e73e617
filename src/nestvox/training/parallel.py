"""Several processes as one: gradients are summed, so that a step is that of the whole batch.

`torchrun` starts the processes and says who is who. Every process holds the whole network and takes its share of each
batch; gradients are sums over samples, added up over the processes and divided by the number of samples there were.
That is exact for shares of different sizes, empty ones included, where an average of averages (what DDP makes) is not,
and no wrapper stands around the network, so that checkpoints have the same names on one process and on many.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from nestvox.device import find_device


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: number of this one.
        world: how many there are.
        device: that this one computes on.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this one validates, writes and shows progress."""
        return self.rank == 0

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes; a parameter that none has used keeps none."""
        if self.world == 1:
            return
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        used = torch.tensor([parameter.grad is not None for parameter in learning], dtype=torch.float32)
        used = self._everywhere(used, distributed.ReduceOp.MAX)
        summed = [parameter for parameter, there in zip(learning, used.tolist(), strict=True) if there]
        if not summed:
            return
        flat = torch.cat(
            [
                (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten()
                for parameter in summed
            ]
        )
        distributed.all_reduce(flat)
        place = 0
        for parameter in summed:
            parameter.grad = flat[place : place + parameter.numel()].view_as(parameter).clone()
            place += parameter.numel()

    def gather(self, rows: Tensor) -> Tensor:
        """Join the rows of all processes, in the order of their numbers; the gradient reaches this one's own rows.

        Args:
            rows: (n, ...), n of each process its own.
        """
        if self.world == 1:
            return rows
        counts = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.world)]
        distributed.all_gather(counts, torch.tensor([len(rows)], device=self.device))
        sizes = [int(count) for count in counts]
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows.detach()
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        distributed.all_gather(parts, padded)
        joined = [part[:size] for part, size in zip(parts, sizes, strict=True)]
        joined[self.rank] = rows
        return torch.cat(joined)

    def sum(self, values: Tensor) -> Tensor:
        """Add up (n,) values of all processes."""
        return values if self.world == 1 else self._everywhere(values.clone(), distributed.ReduceOp.SUM)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors (running statistics) by their mean over the processes, in place."""
        real = [tensor for tensor in tensors if tensor.is_floating_point()]
        if self.world == 1 or not real:
            return
        flat = torch.cat([tensor.flatten() for tensor in real])
        distributed.all_reduce(flat)
        for tensor, mean in zip(real, torch.split(flat / self.world, [t.numel() for t in real]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def from_first(self, values: list[float]) -> list[float]:
        """Give every process the numbers of the first; as many everywhere."""
        if self.world == 1:
            return values
        told = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.broadcast(told, src=0)
        return [float(value) for value in told.tolist()]

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            distributed.barrier()

    def _everywhere(self, values: Tensor, operation: distributed.ReduceOp.RedOpType) -> Tensor:
        values = values.to(self.device)
        distributed.all_reduce(values, operation)
        return values


@contextmanager
def processes(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that `torchrun` started; alone where it did not.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; with several processes each takes the GPU of its local rank.

    Raises:
        ModelError: the device is not there.
    """
    chosen = find_device(device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes(0, 1, chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    joined = not distributed.is_initialized()
    if joined:
        # The others wait while the first one makes a cache, which may take hours.
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(days=2))
    try:
        yield Processes(distributed.get_rank(), world, chosen)
    finally:
        if joined:
            distributed.destroy_process_group()
