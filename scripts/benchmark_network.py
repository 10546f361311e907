"""How fast the network is on this machine: feed-forward poses, training, memory; by precision and field."""

from __future__ import annotations

import itertools
import json
import resource
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Optional

import numpy as np
import torch
import tyro

from flowcam_ns.errors import FlowCamError
from flowcam_ns.flow.estimator import make_estimator
from flowcam_ns.model.clip import Clip
from flowcam_ns.model.clip_training import NetworkVideo
from flowcam_ns.model.flowcam_network import FlowCamNetwork
from flowcam_ns.model.losses import NetworkLossConfig, clip_losses, published_losses
from flowcam_ns.model.network_config import NetworkConfig, small_config
from flowcam_ns.model.online import relative_poses_of_video


@dataclass
class BenchmarkNetwork:
    """Measure the network's speed and memory here; prints a table."""

    network: Literal["published", "small"] = "published"
    """Which network: that of the paper (for GPUs; seconds a frame on a CPU), or the small one."""
    sizes: tuple[int, ...] = (128, 256)
    """Sides, in px, of the square frames."""
    frames: int = 33
    """Frames of the video whose poses are computed."""
    window: int = 17
    """Frames the network sees at once."""
    stride: int = 3
    """Surfaces are computed at every so many rows and columns."""
    clips: int = 2
    """Clips of 8 frames in a training batch, with 1,024 context and 1,024 target rays."""
    repeats: int = 3
    """Measurements; the fastest counts. One more goes before them unmeasured."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where it runs."""
    train: bool = True
    """Measure training steps too."""
    output: Optional[Path] = None  # noqa: UP045
    """Write the figures as JSON too."""


@dataclass
class Row:
    """One line of the table."""

    size: int
    field: str
    precision: str
    poses_per_second: float
    """Of the network alone, given flow."""
    training_clips_per_second: float | None
    memory_mb: float
    """Most that was allocated on a GPU; on a CPU the process's peak so far."""


def has_tcnn() -> bool:
    """Whether tiny-cuda-nn is at hand (it needs CUDA)."""
    try:
        import tinycudann  # type: ignore[import-not-found]  # noqa: F401
    except (ImportError, OSError):
        return False
    return torch.cuda.is_available()


def fastest(work: Callable[[], object], repeats: int, device: str) -> float:
    """Least seconds that `work` takes."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def random_clip(options: BenchmarkNetwork, frames: int, size: int, batch: int) -> Clip:
    """Noise with a small flow; nothing here depends on what is seen."""
    device, generator = options.device, torch.Generator().manual_seed(0)
    K = torch.tensor([[1.0, 0, 0.5], [0, 1.0, 0.5], [0, 0, 1]], device=device)
    return Clip(
        images=(torch.rand(batch, frames, 3, size, size, generator=generator) * 2 - 1).to(device),
        backward_flow=(0.02 * torch.randn(batch, frames - 1, 2, size, size, generator=generator)).to(device),
        intrinsics=K.expand(batch, frames, 3, 3),
    )


def measure(options: BenchmarkNetwork, layers: NetworkConfig, size: int, precision: str) -> Row:
    """Poses of a video and training steps, with one network."""
    torch.manual_seed(0)
    device = options.device
    on_cuda = device.startswith("cuda")
    network = FlowCamNetwork(layers).to(device)
    half = precision == "bfloat16"
    cast: Callable[[], Any] = lambda: torch.autocast(device.split(":")[0], torch.bfloat16) if half else nullcontext()  # noqa: E731
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    whole = random_clip(options, options.frames, size, 1)
    video = NetworkVideo(whole.images[0], whole.backward_flow[0], whole.intrinsics[0, 0])

    def poses() -> None:
        with cast():
            relative_poses_of_video(network, video, options.stride, options.window)

    pose_seconds = fastest(poses, options.repeats, device)
    clip_seconds = None
    if options.train:
        batch = random_clip(options, 8, size, options.clips)
        optimizer = torch.optim.Adam([w for w in network.parameters() if w.requires_grad], lr=1e-6)
        context, target = (torch.randperm(size * size)[:1024].to(device) for _ in range(2))

        def step() -> None:
            network.train()
            with cast():
                output = network(batch, context, target)
                if options.network == "published":
                    losses = published_losses(output, batch, context, target)
                    losses.pop("flow_unclipped")
                else:
                    losses = clip_losses(output, batch, context, target, NetworkLossConfig())
                loss = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        clip_seconds = fastest(step, options.repeats, device)
    memory = torch.cuda.max_memory_allocated() if on_cuda else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    field = layers.field if layers.field == "residual" else f"mlp, {layers.field_implementation}"
    return Row(
        size,
        field,
        precision,
        (options.frames - 1) / pose_seconds,
        None if clip_seconds is None else options.clips / clip_seconds,
        memory / 2**20,
    )


def flow_pairs_per_second(options: BenchmarkNetwork, size: int) -> dict[str, float]:
    """The flow that goes in: pairs a second, one direction, at twice the network's size."""
    random = np.random.default_rng(0)
    first, second = (random.integers(0, 255, (2 * size, 2 * size, 3), dtype=np.uint8) for _ in range(2))
    rates = {}
    for name in ("dis", "raft-small"):
        estimator = make_estimator(name, options.device)
        pair = (first, second) if estimator.color else (first[..., 0].copy(), second[..., 0].copy())
        try:
            rates[name] = 1 / fastest(lambda: estimator(*pair), options.repeats, options.device)  # noqa: B023
        except FlowCamError as error:
            print(f"{name} is left out: {error}")
    return rates


def main(options: BenchmarkNetwork) -> list[Row]:
    """Measure every combination and print the table."""
    layers = NetworkConfig() if options.network == "published" else small_config()
    plain = replace(layers, field="mlp", field_implementation="torch")
    fields = [layers, plain] + ([replace(plain, field_implementation="tcnn")] if has_tcnn() else [])
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"{torch.get_num_threads()} thread(s)"
    print(f"The {options.network} network on {options.device} ({name}), torch {torch.__version__}\n")
    print("| px | field | precision | poses / s | training clips / s | memory, MB |")
    print("| ---: | --- | --- | ---: | ---: | ---: |")
    rows = []
    for size, config, precision in itertools.product(options.sizes, fields, ("float32", "bfloat16")):
        row = measure(options, config, size, precision)
        clips = "-" if row.training_clips_per_second is None else f"{row.training_clips_per_second:.3g}"
        print(f"| {size} | {row.field} | {precision} | {row.poses_per_second:.3g} | {clips} | {row.memory_mb:.0f} |")
        rows.append(row)
    flow = {size: flow_pairs_per_second(options, size) for size in options.sizes}
    for size, rates in flow.items():
        listed = ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items())
        print(f"\nFlow for {size} px frames, pairs / s at {2 * size} px: {listed}")
    if not has_tcnn():
        print("\ntiny-cuda-nn is not at hand: nothing was measured with it.")
    if options.output is not None:
        figures = {"rows": [asdict(row) for row in rows], "flow_pairs_per_second": flow, "device": name}
        options.output.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return rows


if __name__ == "__main__":
    main(tyro.cli(BenchmarkNetwork, description=BenchmarkNetwork.__doc__))
