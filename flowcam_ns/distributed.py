"""Several processes on a machine without GPUs. (nerfstudio's launcher starts them, but insists on CUDA.)"""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import torch
import torch.distributed as dist
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.scripts.train import train_loop
from nerfstudio.utils import comms
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from flowcam_ns.errors import FlowCamError

TIMEOUT = timedelta(minutes=10)
"""A process that hears nothing from the others for this long gives up."""


def train_on_cpu(config: TrainerConfig, processes: int) -> None:
    """Run a training in `processes` processes on this machine's CPU, joined by gloo, and wait for them.

    The config must be ready to run (`set_timestamp` and `save_config` done). Where one process dies the others are
    ended, and a FlowCamError says so.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    try:
        spawn(_work, nprocs=processes, args=(config, processes, address), join=True)
    except (ProcessRaisedException, ProcessExitedException) as error:
        raise FlowCamError(f"process {error.error_index} of {processes} died; the others were ended") from error


def _work(rank: int, config: TrainerConfig, processes: int, address: str) -> None:
    """One process: join the others, train."""
    torch.set_num_threads(max((os.cpu_count() or 1) // processes, 1))
    dist.init_process_group("gloo", init_method=address, world_size=processes, rank=rank, timeout=TIMEOUT)
    comms.LOCAL_PROCESS_GROUP = dist.new_group(list(range(processes)))  # type: ignore[assignment]
    try:
        train_loop(rank, processes, config, rank)
    finally:
        dist.destroy_process_group()
