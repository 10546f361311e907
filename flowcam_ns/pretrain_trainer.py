"""nerfstudio's trainer for many videos: inputs checked first, errors in one line, two processes without a GPU too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nerfstudio.engine.trainer import TrainerConfig

from flowcam_ns.console import one_line_errors
from flowcam_ns.data.pretrain_sources import SYNTHETIC, find_sources, held_out_sources
from flowcam_ns.distributed import CpuProcesses, check_machine
from flowcam_ns.errors import FlowCamError
from flowcam_ns.pretrain_pipeline import PretrainPipelineConfig
from flowcam_ns.trainer import FlowCamTrainer


@dataclass
class PretrainTrainerConfig(TrainerConfig):
    """Configuration for training on many videos."""

    _target: type = field(default_factory=lambda: FlowCamTrainer)
    """target class to instantiate"""
    # No field: no flag, and not in config.yml, where machine.num_devices says it.
    _cpu_processes = 1

    def set_timestamp(self) -> None:
        """The first thing `ns-train` calls: look at the input here, so that a bad one leaves no run folder behind."""
        with one_line_errors():
            self._make_absolute()
            pipeline = self._pipeline()
            data = pipeline.datamanager.data
            if data is None:
                raise FlowCamError("no input given: add --data followed by a folder of videos, or by `synthetic`")
            if "viewer" in self.vis:
                raise FlowCamError("there is no single scene to view while training on many: use --vis tensorboard")
            check_clips(pipeline)
            check_machine(self.machine)
            pipeline.adopt_start()
            held_out_sources(find_sources(data), pipeline.datamanager.clips.validation_share)
        super().set_timestamp()

    def set_experiment_name(self) -> None:
        """Name the run after the folder, and keep config.yml valid from any working directory."""
        self._make_absolute()
        data = self._pipeline().datamanager.data
        if self.experiment_name is None and data is not None:
            self.experiment_name = data.name
        super().set_experiment_name()

    def save_config(self) -> None:
        """Write config.yml: the last thing before nerfstudio's launcher reads how many processes it shall start.

        It would insist on CUDA for more than one; so on a CPU it is told of one, whose trainer (see `setup`) starts
        them.
        """
        super().save_config()
        if self.machine.device_type == "cpu" and self.machine.num_devices > 1:
            self._cpu_processes, self.machine.num_devices = self.machine.num_devices, 1

    def setup(self, **kwargs: Any) -> Any:
        """The trainer of this process, or what starts several processes on the CPU."""
        if self._cpu_processes > 1 and kwargs.get("world_size", 1) == 1:
            return CpuProcesses(self, self._cpu_processes)
        return super().setup(**kwargs)

    def _pipeline(self) -> PretrainPipelineConfig:
        assert isinstance(self.pipeline, PretrainPipelineConfig)
        return self.pipeline

    def _make_absolute(self) -> None:
        self.output_dir = self.output_dir.absolute()
        pipeline = self._pipeline()
        for owner in (self, pipeline.datamanager):
            synthetic = owner.data is not None and str(owner.data) == SYNTHETIC and not owner.data.exists()
            if owner.data is not None and not synthetic:
                owner.data = owner.data.expanduser().absolute()


def check_clips(pipeline: PretrainPipelineConfig) -> None:
    """Raise FlowCamError where the numbers make no sense together."""
    clips = pipeline.datamanager.clips
    if clips.clip_length < 2 or min(clips.height, clips.width) < 16 or clips.clips_per_batch < 1:
        raise FlowCamError("clips need at least two frames of 16 px a side, and a batch at least one clip")
    if clips.keep_shape and clips.clips_per_batch > 1:
        raise FlowCamError("clips that keep their shapes go one by one: set clips-per-batch 1, or keep-shape False")
    if not 1 <= clips.frame_skip[0] <= clips.frame_skip[1]:
        raise FlowCamError(f"frame-skip is {clips.frame_skip}: it must be two numbers, 1 <= least <= largest")
    if clips.frames_per_visit < clips.clip_length or clips.videos_in_memory < 1 or clips.clips_per_visit < 1:
        raise FlowCamError("frames-per-visit must cover a clip; videos-in-memory and clips-per-visit are at least 1")
    if not 0 < clips.context_rays <= clips.height * clips.width or clips.target_rays < 0:
        raise FlowCamError("context-rays must lie between 1 and the number of pixels; target-rays must not be negative")
