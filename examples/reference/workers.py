"""Two processes of one thread each: on two cores they learn faster than one process of two threads, and are less
easily held up by what else the machine does."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn


RANK, MEETING = "REFERENCE_RANK", "REFERENCE_MEETING"


def start(count: int) -> tuple[int, int]:
    """Start this script `count - 1` times more and meet; returns the number of this process, and `count`.

    A process that loses another ends with an error; the same command resumes.
    """
    rank = int(os.environ.get(RANK, 0))
    if count > 1:
        meeting = os.environ.setdefault(MEETING, os.path.join(tempfile.mkdtemp(), "meeting"))
        if rank == 0:
            for other in range(1, count):
                subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, RANK: str(other)})
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    return rank, count


def share_gradients(parameters: Iterable[nn.Parameter], signal: float) -> float:
    """Average the gradients of all processes.

    Args:
        parameters: that are trained; one that has no gradient, because this batch did not need it, gets one of zeros.
        signal: what this process tells the others.

    Returns:
        The sum of the signals.
    """
    if not dist.is_initialized():
        return signal
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor([signal])])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([*map(torch.numel, gradients), 1]), strict=False):
        gradient.copy_(part.view_as(gradient) / dist.get_world_size())
    return float(flat[-1])
