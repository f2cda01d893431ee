"""The processes of one training: one alone, or several under torchrun that share every batch."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

CPU = torch.device("cpu")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Group:
    """This process's place among those that train together."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes, the same in each."""
        if self.size == 1:
            return values
        summed = values.to(self.device)
        dist.all_reduce(summed)
        return summed.to(values.device)

    def gather(self, value: Any) -> list[Any]:
        """A picklable value of every process, by rank, in each."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def share(self, make: Callable[[], Made]) -> Made:
        """What the main process alone makes, in every process."""
        made: Made = self.gather(make() if self.main else None)[0]
        return made


@contextmanager
def processes(device: torch.device) -> Iterator[Group]:
    """Joins the processes that torchrun started (RANK, WORLD_SIZE … in the environment), NCCL on CUDA, else gloo."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group(device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(int(os.environ["RANK"]), size, device)
    finally:
        dist.destroy_process_group()
