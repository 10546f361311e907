"""The FlowCam network beside the field: a train step of its own, taught by the solved cameras."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Optional

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.alignment_loss import (
    AlignmentLossConfig,
    procrustes_alignment_loss,
    rotation_error_deg,
    scaled_poses,
    world_to_network_scale,
)
from flowcam_ns.model.checkpoint import Checkpoint, to_our_names
from flowcam_ns.model.clip_training import (
    ClipTrainingConfig,
    NetworkVideo,
    network_losses,
    normalized_intrinsics,
    sample_clip,
)
from flowcam_ns.model.flowcam_network import FlowCamNetwork
from flowcam_ns.model.network_config import NetworkConfig, small_config
from flowcam_ns.model.online import network_poses

EVERY = 10
"""Steps of the field to one of the network, where it is trained and nothing else is said."""


@dataclass
class NetworkStageConfig:
    """The network of the paper: features, surfaces by volume rendering, scene flow, poses by weighted Procrustes."""

    paper: bool = False
    """Use the network's own chained poses alone, as published, in place of the bundle adjustment's. The lens is the
    given one, or else the bundle adjustment's. As published, the colours of all frames train the network."""
    every: Optional[int] = None  # noqa: UP045
    """Train the network too, in every so many steps of the field, taught by the solved cameras; 0 leaves it out. By
    default it is trained (in every tenth) only where it starts from a checkpoint or its poses are the cameras: to
    cameras and views it adds nothing otherwise."""
    long_side: int = 96
    """Long side in px of the frames that the network sees."""
    layers: NetworkConfig = field(default_factory=small_config)
    """What the network is made of."""
    training: ClipTrainingConfig = field(default_factory=ClipTrainingConfig)
    """How it is trained; steps and learning rate hold for `paper`."""
    teacher: AlignmentLossConfig = field(default_factory=AlignmentLossConfig)
    """How strongly the solved cameras teach it where `paper` is off."""

    def steps_between(self, from_checkpoint: bool) -> int:
        """Steps of the field to one of the network; 0 if it is not trained beside the field."""
        if self.every is not None:
            return self.every
        return EVERY if from_checkpoint or self.paper else 0


@dataclass
class TaughtVideo:
    """A video at the network's size, with the solved cameras of its frames."""

    video: NetworkVideo
    c2w: Float[Tensor, "frames 4 4"]
    """In the network's units."""
    start: int
    """The video's first frame, counted in the whole clip."""
    scale: float
    """Network units per world unit."""


class NetworkStage(nn.Module):
    """Network and what it is taught from; the latter is made anew in every process."""

    def __init__(self, config: NetworkStageConfig) -> None:
        super().__init__()
        self.config = config
        # Its random numbers are its own: whether it is trained or not, the field beside it sees the same rays.
        with torch.random.fork_rng(devices=[]):
            self.network = FlowCamNetwork(config.layers)
        self._generator = torch.Generator().manual_seed(torch.initial_seed())
        self._taught: TaughtVideo | None = None

    def start_from(self, checkpoint: Checkpoint) -> None:
        """Take the weights of a trained network, whose sizes must be those of the config."""
        if checkpoint.layers != self.config.layers:
            raise FlowCamError(
                "the checkpoint's network is made otherwise than the one in pipeline.model.network.layers"
            )
        self.network.load_state_dict(to_our_names(checkpoint.network))

    @property
    def needs_video(self) -> bool:
        """Whether `teach` must be called before `step`."""
        return self._taught is None

    def taught(self) -> TaughtVideo:
        """What `teach` was given. (No property: nerfstudio's viewer reads all of a module's when it starts.)"""
        assert self._taught is not None
        return self._taught

    def teach(
        self,
        video: NetworkVideo,
        c2w: Float[Tensor, "frames 4 4"],
        inverse_depth: Float[Tensor, "frames h w"],
        start: int = 0,
    ) -> None:
        """Take a video that begins with the clip's frame `start`, and its solved cameras (world units, like
        `inverse_depth`).
        """
        scale = world_to_network_scale(inverse_depth[inverse_depth > 0], self.config.layers)
        self._taught = TaughtVideo(video, scaled_poses(c2w.float(), scale).to(video.frames.device), start, scale)

    def move_cameras(self, c2w: Float[Tensor, "clip 4 4"], camera: Camera) -> None:
        """Other poses (of all frames of the clip, world units) and another lens for what it is taught, if anything is;
        depths stay as they are.
        """
        if self._taught is None:
            return
        video, start, scale = self._taught.video, self._taught.start, self._taught.scale
        moved = scaled_poses(c2w[start : start + len(video.frames)].float(), scale).to(video.frames.device)
        intrinsics = normalized_intrinsics(camera).to(video.intrinsics)
        self._taught = replace(self._taught, video=replace(video, intrinsics=intrinsics), c2w=moved)

    def step(self, with_colours: bool = True) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of a random clip, and the network's rotation error against its teacher in degrees.

        A clip also holds frames that are held out: `with_colours` off, no frame's colours are what it is trained for.
        """
        video = self.taught().video
        training = self.config.training
        if not with_colours:
            losses = replace(training.losses, rgb_weight=0.0, context_rgb_weight=0.0)
            training = replace(training, losses=losses, target_rays=0)
        batch = sample_clip(video, training, self._generator)
        losses, output = network_losses(self.network, batch, training.losses)
        solved = self.taught().c2w[None, batch.start : batch.start + batch.clip.num_pairs + 1]
        losses |= procrustes_alignment_loss(output.motion, batch.clip, solved, self.config.teacher)
        relative = se3.between(solved[:, :-1], solved[:, 1:])
        error = rotation_error_deg(output.motion.relative.detach(), relative).mean()
        return {f"network_{name}": loss for name, loss in losses.items()}, {"network_rotation_deg": error}

    def poses(self) -> Float[Tensor, "frames 4 4"]:
        """The network's own chained camera-to-world poses of the frames it is taught from, in the first's camera."""
        return network_poses(self.network, self.taught().video)
