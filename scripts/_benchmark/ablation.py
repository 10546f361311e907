"""The default method with one part left out at a time, trained in this process: poses, views, time."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.optimizers import Optimizers
from torch import Tensor

from _benchmark.sequences import load_sequence
from _benchmark.tables import Row
from flowcam_ns.data.network_video import longest_run
from flowcam_ns.geometry.metrics import PoseScores, score_trajectory
from flowcam_ns.model.camera_optimizer import EstimatedCameras
from flowcam_ns.model.checkpoint import read_checkpoint
from flowcam_ns.model.network_stage import EVERY
from flowcam_ns.pipeline import FlowCamPipeline, FlowCamPipelineConfig
from flowcam_ns.trainer import FlowCamTrainerConfig
from flowcam_ns.video.options import FrameOptions

METHOD = cast(FlowCamTrainerConfig, all_methods["flowcam"])
"""As a user gets it."""
NETWORK = "model.network."
WITH_NETWORK: dict[str, Any] = {NETWORK + "every": EVERY}
PARTS: dict[str, dict[str, Any]] = {
    "default": {},
    "with the network (steps 3-4)": WITH_NETWORK,
    "with it, no Procrustes loss": {
        **WITH_NETWORK,
        NETWORK + "teacher.rotation_weight": 0.0,
        NETWORK + "teacher.translation_weight": 0.0,
    },
    "with it, no flow loss": {
        **WITH_NETWORK,
        NETWORK + "training.losses.flow_weight": 0.0,
        NETWORK + "training.losses.wide_flow_weight": 0.0,
        NETWORK + "teacher.flow_weight": 0.0,
    },
    "with it, no learned confidence": {**WITH_NETWORK, NETWORK + "layers.learned_confidence": False},
    "with it, no confidence of flow": {**WITH_NETWORK, "alignment.flow_confidence": False},
    "with it, pair by pair": {**WITH_NETWORK, NETWORK + "layers.joint_steps": 0},
    "with it, Procrustes alone": {
        **WITH_NETWORK,
        NETWORK + "layers.pose_steps": 0,
        NETWORK + "layers.joint_steps": 0,
    },
    "the network's poses alone": {NETWORK + "paper": True, NETWORK + "every": 0},
}
"""What is added or left out, and the fields of the pipeline's config that do so."""


@dataclass(frozen=True)
class Input:
    """A video whose true poses are known."""

    name: str
    data: Path
    c2w: Float[Tensor, "frames 4 4"]
    """OpenCV camera-to-world of the frames that decoding selects."""
    frames: FrameOptions


def recorded_input(data: Path, name: str) -> Input:
    """A recorded sequence below `data`; "name:23" means its first 23 frames."""
    recorded = load_sequence(data, name)
    folder, _, count = name.partition(":")
    frames = FrameOptions(end_frame=int(count) - 1 if count else None)
    return Input(name, data / folder, torch.from_numpy(recorded.truth.c2w), frames)


@dataclass(frozen=True)
class Size:
    """What makes the runs small."""

    steps: int
    rays: int
    long_side: int
    every: int
    """Steps of the field to one of the network."""


def flags(changes: Mapping[str, Any]) -> str:
    """The same as flags of `ns-train flowcam`."""
    return " ".join(f"--pipeline.{name.replace('_', '-')} {value}" for name, value in changes.items())


def configured(changes: Mapping[str, Any], source: Input, size: Size, cache: Path) -> FlowCamPipelineConfig:
    """The default method's pipeline, with `changes` by dotted name."""
    config = copy.deepcopy(METHOD.pipeline)
    assert isinstance(config, FlowCamPipelineConfig)
    config.alignment.cache_dir = cache
    datamanager = config.datamanager
    datamanager.data = datamanager.dataparser.data = source.data
    datamanager.dataparser.frames = copy.deepcopy(source.frames)
    datamanager.dataparser.train_long_side = size.long_side
    datamanager.train_num_rays_per_batch = size.rays
    config.model.network.training.steps = 2 * size.steps // size.every
    for name, value in changes.items():
        *path, last = name.split(".")
        owner: Any = config
        for part in path:
            owner = getattr(owner, part)
        if not hasattr(owner, last):
            raise AttributeError(f"the pipeline's config has no {name}")
        setattr(owner, last, value)
    if config.model.network_every > 0:
        config.model.network.every = size.every
    config.model.adopt_checkpoint()
    return config


@dataclass(frozen=True)
class Solved:
    """Cameras and depths of a video, as a pipeline found them, and the processor seconds that it took."""

    cameras: EstimatedCameras
    inverse_depth: Float[Tensor, "frames h w"]
    confidence: Float[Tensor, "frames h w"]
    seconds: float

    @classmethod
    def of(cls, pipeline: FlowCamPipeline, seconds: float) -> Solved:
        """What the pipeline's solve found."""
        return cls(pipeline.flowcam.camera_optimizer.cameras(), *pipeline.flowcam.scene_depth.depth(), seconds)

    def adopt(self, pipeline: FlowCamPipeline) -> None:
        """Give it to another pipeline over the same video."""
        pipeline.flowcam.adopt(self.cameras, self.inverse_depth, self.confidence)
        pipeline.datamanager.set_cameras(self.cameras)


class Ablation:
    """Runs on one video; what only concerns later steps shares one solve."""

    def __init__(self, source: Input, cache: Path, device: str, warm_up: bool = True) -> None:
        """`warm_up` solves once more at the start, so that no row's time holds that of the flow."""
        self.source, self.cache, self.device, self.warm_up = source, cache, device, warm_up
        self._solved: dict[str, Solved] = {}

    def run(self, name: str, changes: Mapping[str, Any], size: Size, seed: int = 0) -> Row:
        """Solve, train, score."""
        pipeline, clock, solve_seconds = self.trained(changes, size, seed)
        return row(name, pipeline, self.source, solve_seconds, clock)

    def trained(self, changes: Mapping[str, Any], size: Size, seed: int = 0) -> tuple[FlowCamPipeline, Clock, float]:
        """A trained pipeline, the time of its training, and that of its solve."""
        pipeline, solve_seconds = self.untrained(changes, size, seed)
        checkpoint, network = pipeline.config.model.checkpoint, pipeline.flowcam.network
        if checkpoint is not None and network is not None:
            network.start_from(read_checkpoint(checkpoint))
        return pipeline, train(pipeline, size.steps), solve_seconds

    def untrained(self, changes: Mapping[str, Any], size: Size, seed: int = 0) -> tuple[FlowCamPipeline, float]:
        """A pipeline that has its cameras and depths, and the time of their solve."""
        config = configured(changes, self.source, size, self.cache)
        solved = self.solved(config)
        torch.manual_seed(seed)
        pipeline = config.setup(device=self.device)
        assert isinstance(pipeline, FlowCamPipeline)
        solved.adopt(pipeline)
        return pipeline, solved.seconds

    def solved(self, config: FlowCamPipelineConfig) -> Solved:
        """Cameras and depths, by the first run that needs these."""
        key = repr((config.alignment, config.model.checkpoint, config.model.network.paper))
        if self.warm_up and not self._solved:
            self._solved[""] = solve(config, self.device)
        if key not in self._solved:
            self._solved[key] = solve(config, self.device)
        return self._solved[key]

    def cost(self, steps: int) -> str:
        """What training the network takes at the method's own sizes."""
        method = METHOD.pipeline
        assert isinstance(method, FlowCamPipelineConfig)
        own = method.datamanager
        size = Size(steps, own.train_num_rays_per_batch, own.dataparser.train_long_side, EVERY)
        _, clock, _ = self.trained(WITH_NETWORK, size)
        assert clock.network is not None
        return (
            f"At the method's own sizes ({size.rays} rays, {size.long_side} px), {steps} steps on {self.source.name}: "
            f"{clock.field:.1f} s for the field, {clock.network:.1f} s for the network, which is "
            f"{clock.network / (clock.field + clock.network):.0%} of the training."
        )


def solve(config: FlowCamPipelineConfig, device: str) -> Solved:
    """Cameras and depths from nothing."""
    torch.manual_seed(0)
    pipeline = config.setup(device=device)
    assert isinstance(pipeline, FlowCamPipeline)
    started = time.process_time()
    step_once(pipeline, optimizers_of(pipeline), 1)
    return Solved.of(pipeline, time.process_time() - started)


def row(name: str, pipeline: FlowCamPipeline, source: Input, solve_seconds: float, clock: Clock) -> Row:
    """What a trained pipeline is worth."""
    pipeline.eval()
    views = pipeline.get_average_eval_image_metrics()
    cameras = pipeline.flowcam.camera_optimizer.cameras()
    solved = score_trajectory(cameras.c2w, source.c2w, cameras.posed)
    own = network_scores(pipeline, source.c2w)
    return {
        "input": source.name,
        "method": name,
        "ATE, %": 100 * solved.ate_relative,
        "AUC@5": solved.auc_5,
        "rotation, degrees": solved.mean_rotation_deg,
        "network's ATE, %": None if own is None else 100 * own.ate_relative,
        "network's AUC@5": None if own is None else own.auc_5,
        "PSNR": views.get("psnr"),
        "LPIPS": views.get("lpips"),
        "solve, s": solve_seconds,
        "field, s": clock.field,
        "network, s": clock.network,
    }


def network_scores(pipeline: FlowCamPipeline, truth: Float[Tensor, "frames 4 4"]) -> PoseScores | None:
    """Of the network's own chained poses, over the frames it was taught from; None where no network was trained."""
    network = pipeline.flowcam.network
    if network is None or network.needs_video:
        return None
    part = longest_run(pipeline.flowcam.camera_optimizer.cameras().posed)
    return score_trajectory(network.poses().cpu(), truth[part])


@dataclass(frozen=True)
class Clock:
    """Processor seconds of all threads: other work on the machine counts little."""

    field: float
    network: float | None


def train(pipeline: FlowCamPipeline, steps: int) -> Clock:
    """nerfstudio's training loop without its writers and viewer."""
    optimizers = optimizers_of(pipeline)
    every = pipeline.config.model.network_every
    plain, both = list[float](), list[float]()
    pipeline.train()
    for step in range(1, steps + 1):
        started = time.process_time()
        step_once(pipeline, optimizers, step)
        (both if every > 0 and step % every == 0 else plain).append(time.process_time() - started)
    typical = sum(plain) / max(len(plain), 1)
    return Clock(sum(plain) + typical * len(both), sum(both) - typical * len(both) if every > 0 else None)


def optimizers_of(pipeline: FlowCamPipeline) -> Optimizers:
    """The default method's."""
    groups = pipeline.get_param_groups()
    return Optimizers({name: METHOD.optimizers[name] for name in groups}, groups)


def step_once(pipeline: FlowCamPipeline, optimizers: Optimizers, step: int) -> None:
    """One step, as nerfstudio's trainer does it."""
    optimizers.zero_grad_all()
    _, losses, _ = pipeline.get_train_loss_dict(step)
    torch.stack(list(losses.values())).sum().backward()
    optimizers.optimizer_step_all()
