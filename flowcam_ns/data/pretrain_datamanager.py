"""nerfstudio's datamanager over many videos."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.data.datamanagers.base_datamanager import DataManager, DataManagerConfig
from torch import nn

from flowcam_ns.data.pretrain_clips import Prefetched, PretrainBatch, PretrainClips, PretrainClipsConfig
from flowcam_ns.data.pretrain_sources import Source, find_sources, held_out_sources
from flowcam_ns.errors import FlowCamError


@dataclass
class PretrainDataManagerConfig(DataManagerConfig):
    """Clips out of many videos."""

    _target: type = field(default_factory=lambda: PretrainDataManager)
    """Target class to instantiate."""
    clips: PretrainClipsConfig = field(default_factory=PretrainClipsConfig)
    """How clips are cut."""


class PretrainDataManager(DataManager):
    """Train and validation clips; `train_dataset` and `eval_dataset` are the lists of videos."""

    def __init__(
        self,
        config: PretrainDataManagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        rank: int = 0,
        **kwargs: Any,
    ) -> None:
        self.config, self.device, self.test_mode = config, str(device), test_mode
        self.world_size, self.rank = world_size, rank
        if config.data is None:
            raise FlowCamError("no input given: add --data followed by a folder of videos, or by `synthetic`")
        train, held_out = held_out_sources(find_sources(config.data), config.clips.validation_share)
        super().__init__()
        # nerfstudio wants something that is not None and has a length; ours are videos, not images.
        self.train_dataset: list[Source] = train  # type: ignore[assignment]
        self.eval_dataset: list[Source] = held_out  # type: ignore[assignment]
        # The device with its index: each process computes flow on its own GPU.
        self.train_clips = PretrainClips(train, config.clips, self.device, rank, world_size)
        # Validation is the same on every rank, and not shared between them.
        self.eval_clips = PretrainClips(held_out, config.clips, self.device)
        self._train_batches = Prefetched(self.train_clips.batch)

    def setup_train(self) -> None:
        """Nothing to prepare: clips are read when they are asked for."""

    def setup_eval(self) -> None:
        """Nothing to prepare."""

    def train_batch(self, step: int) -> PretrainBatch:
        """The clips of a step, on the device."""
        self.train_count += 1
        return self._train_batches(step).to(self.device)

    def eval_batch(self, number: int) -> PretrainBatch:
        """A validation clip, on the device."""
        self.eval_count += 1
        return self.eval_clips.validation_batch(number % self.config.clips.validation_clips).to(self.device)

    def next_train(self, step: int) -> Any:
        """nerfstudio's name for `train_batch`."""
        return self.train_batch(step), {}

    def next_eval(self, step: int) -> Any:
        """nerfstudio's name for `eval_batch`."""
        return self.eval_batch(step), {}

    def next_eval_image(self, step: int) -> Any:
        """nerfstudio's name for `eval_batch`, where a picture is wanted."""
        return self.eval_batch(step), {}

    def get_train_rays_per_batch(self) -> int:
        """Pixels that a step of this process computes, for nerfstudio's count of rays a second."""
        clips = self.config.clips
        return clips.clips_per_batch * clips.clip_length * (clips.context_rays + clips.target_rays)

    def get_eval_rays_per_batch(self) -> int:
        """The same for one validation clip."""
        return self.get_train_rays_per_batch() // self.config.clips.clips_per_batch

    def get_datapath(self) -> Path:
        """The folder of videos."""
        assert self.config.data is not None
        return self.config.data

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """Nothing here is trained."""
        return {}

    def close(self) -> None:
        """Stop reading ahead."""
        self._train_batches.close()
