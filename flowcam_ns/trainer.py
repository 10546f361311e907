"""nerfstudio's trainer, with inputs checked before it starts, and errors in one line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nerfstudio.engine.trainer import Trainer, TrainerConfig

from flowcam_ns.config_checks import check_one_device, check_options
from flowcam_ns.console import one_line_errors
from flowcam_ns.data.datamanager import FlowCamDataManagerConfig
from flowcam_ns.data.frame_source import decode_frames
from flowcam_ns.data.splat_datamanager import FlowCamSplatDataManagerConfig
from flowcam_ns.errors import FlowCamError
from flowcam_ns.model.flowcam_model import FlowCamModelConfig
from flowcam_ns.model.splat_model import require_cuda
from flowcam_ns.pipeline import NETWORK_FLAGS, FlowCamPipeline

INTERRUPTED = 130
"""Exit code of a run that Ctrl-C ended."""


@dataclass
class FlowCamTrainerConfig(TrainerConfig):
    """Configuration for training FlowCam."""

    _target: type = field(default_factory=lambda: FlowCamTrainer)
    """target class to instantiate"""

    def set_timestamp(self) -> None:
        """The first thing `ns-train` calls: read the input here, so that a bad one leaves no run folder behind."""
        try:
            with one_line_errors():
                self._make_absolute()
                datamanager = self._datamanager()
                check_one_device(self.machine)
                check_options(datamanager, self.pipeline.model)
                path = datamanager.data or datamanager.dataparser.data
                decode_frames(Path(path), datamanager.dataparser.frames)
                if isinstance(self.pipeline.model, FlowCamModelConfig):
                    self.pipeline.model.adopt_checkpoint()
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
        super().set_timestamp()

    def save_config(self) -> None:
        """Write config.yml: the first thing a run writes."""
        with one_line_errors():
            try:
                super().save_config()
            except OSError as error:
                reason = error.strerror or str(error)
                raise FlowCamError(
                    f"cannot write to {self.output_dir} ({reason}): choose another --output-dir"
                ) from error

    def set_experiment_name(self) -> None:
        """Name the run after the video or folder, and keep config.yml valid from any working directory."""
        self._make_absolute()
        data = self._datamanager().data
        if self.experiment_name is None and data is not None:
            self.experiment_name = data.stem if data.is_file() else _folder_name(data)
        super().set_experiment_name()

    def _datamanager(self) -> FlowCamDataManagerConfig | FlowCamSplatDataManagerConfig:
        datamanager = self.pipeline.datamanager
        assert isinstance(datamanager, FlowCamDataManagerConfig | FlowCamSplatDataManagerConfig)
        return datamanager

    def _make_absolute(self) -> None:
        datamanager = self._datamanager()
        self.output_dir = self.output_dir.absolute()
        for owner in (self, datamanager):
            if owner.data is not None:
                owner.data = owner.data.expanduser().absolute()
        if datamanager.dataparser.frames.masks is not None:
            datamanager.dataparser.frames.masks = datamanager.dataparser.frames.masks.expanduser().absolute()


@dataclass
class FlowCamSplatTrainerConfig(FlowCamTrainerConfig):
    """Configuration for training Gaussian splats."""

    def set_timestamp(self) -> None:
        """The first thing `ns-train` calls: what cannot be rasterised need not be posed."""
        with one_line_errors():
            require_cuda()
        super().set_timestamp()


class FlowCamTrainer(Trainer):
    """Trainer that ends with one line where the user can mend what went wrong, and quietly on Ctrl-C."""

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Build pipeline, viewer and optimizers; load a checkpoint where asked. Splats are posed in here."""
        try:
            with one_line_errors():
                super().setup(test_mode)
        except KeyboardInterrupt:
            print("\nInterrupted before training began; the next run reuses the optical flow computed so far")
            raise SystemExit(INTERRUPTED) from None

    def _load_checkpoint(self) -> None:
        """Go on with a run, whose trained parts must be those of this one; FlowCamError where they are not."""
        try:
            super()._load_checkpoint()
        except KeyError as missing:
            if missing.args[0] not in ("fields", "network"):
                raise
            raise FlowCamError(
                f"the run that left the checkpoint trained other parts than this one: give {NETWORK_FLAGS} as its "
                "config.yml has them"
            ) from None

    def train(self, *args: Any) -> None:
        """Train until done; Ctrl-C keeps what has been learnt."""
        try:
            with one_line_errors():
                super().train(*args)
        except KeyboardInterrupt:
            self._interrupted()
            raise SystemExit(0 if self.training_state == "completed" else INTERRUPTED) from None
        finally:
            self.shutdown()

    def _interrupted(self) -> None:
        if self.training_state == "completed":
            return
        pipeline = self.pipeline
        if not isinstance(pipeline, FlowCamPipeline) or pipeline.flowcam.camera_optimizer.is_solved:
            self.save_checkpoint(self.step)
            print(f"\nInterrupted at step {self.step}; resume with --load-dir {self.checkpoint_dir}")
        else:
            print("\nInterrupted before camera poses were found; the next run reuses the optical flow computed so far")


def _folder_name(folder: Path) -> str:
    """Name of a data folder; one that is only called `images` goes by its parent's name."""
    return folder.parent.name if folder.name == "images" and folder.parent.name else folder.name
