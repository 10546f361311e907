"""Several processes on a machine without GPUs. (nerfstudio's launcher starts them, but insists on CUDA.)"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils import comms
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from flowcam_ns.console import one_line_errors
from flowcam_ns.errors import FlowCamError
from flowcam_ns.trainer import INTERRUPTED

TIMEOUT = timedelta(minutes=10)
"""A process that hears nothing from the others for this long gives up."""
GRACE_SECONDS = 30.0
"""How long processes may take to save what they have after Ctrl-C."""


class CpuProcesses:
    """What nerfstudio's launcher runs as if it were the trainer of a single process: it starts the real ones."""

    def __init__(self, config: TrainerConfig, processes: int) -> None:
        self.config, self.processes = config, processes

    def setup(self) -> None:
        """Nothing: each process builds its own."""

    def train(self) -> None:
        """Train, and end with one line where that fails; quietly on Ctrl-C, which all processes see."""
        try:
            with one_line_errors():
                train_on_cpu(self.config, self.processes)
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None


def check_machine(machine: MachineConfig) -> None:
    """Raise FlowCamError for devices that are not there: nerfstudio's processes would die of an assertion."""
    if machine.device_type == "cuda":
        found = torch.cuda.device_count()
        if machine.num_devices > found:
            raise FlowCamError(
                f"machine.num-devices is {machine.num_devices}, but {found} GPUs were found here: ask for no more of "
                "them, or for processes on the CPU with --machine.device-type cpu"
            )
    elif machine.num_machines > 1 or (machine.device_type != "cpu" and machine.num_devices > 1):
        raise FlowCamError("several machines or devices need CUDA; several processes of one machine can use its CPU")


def train_on_cpu(config: TrainerConfig, processes: int) -> None:
    """Run a training in `processes` processes on this machine's CPU, joined by gloo, and wait for them.

    The config must be ready to run (`set_timestamp` and `save_config` done). Where one process dies the others are
    ended, and a FlowCamError says so.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    context = spawn(_work, nprocs=processes, args=(config, processes, address), join=False)
    assert context is not None
    try:
        while not context.join():
            pass
    except (ProcessRaisedException, ProcessExitedException) as error:
        if isinstance(error, ProcessRaisedException):
            print(error, file=sys.stderr)  # its traceback: what nobody has foreseen
        raise FlowCamError(f"process {error.error_index} of {processes} died; the others were ended") from error
    finally:
        _end(context.processes)


def _end(processes: Sequence[Any]) -> None:
    """Wait for processes that Ctrl-C has reached too; end those that it has not, or that take too long."""
    patience = time.monotonic() + GRACE_SECONDS
    for process in processes:
        process.join(max(patience - time.monotonic(), 0))
        if process.is_alive():
            process.terminate()
            process.join()


def _work(rank: int, config: TrainerConfig, processes: int, address: str) -> None:
    """One process: join the others, train."""
    from nerfstudio.scripts.train import train_loop  # which imports this plugin, and so cannot be imported by it

    torch.set_num_threads(max((os.cpu_count() or 1) // processes, 1))
    dist.init_process_group("gloo", init_method=address, world_size=processes, rank=rank, timeout=TIMEOUT)
    comms.LOCAL_PROCESS_GROUP = dist.new_group(list(range(processes)))  # type: ignore[assignment]
    try:
        train_loop(rank, processes, config, rank)
    finally:
        dist.destroy_process_group()
