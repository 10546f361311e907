"""The order of things in a run: poses and depths in the first train step, then the field; all of it again on load."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
import tyro
from jaxtyping import Float
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.alignment.result import Alignment
from flowcam_ns.console import one_line_errors
from flowcam_ns.data.datamanager import FlowCamDataManager, FlowCamDataManagerConfig
from flowcam_ns.data.held_out import held_out_frames
from flowcam_ns.data.network_poses import network_flow
from flowcam_ns.data.network_video import longest_run, network_video
from flowcam_ns.data.run_files import loaded_alignment, summary, write_run_files
from flowcam_ns.data.solve import reconstruct
from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.metrics import score_trajectory
from flowcam_ns.model.camera_optimizer import EstimatedCameras
from flowcam_ns.model.checkpoint import read_checkpoint
from flowcam_ns.model.fading import fading_share
from flowcam_ns.model.flowcam_model import FlowCamModel, FlowCamModelConfig
from flowcam_ns.model.view import View
from flowcam_ns.startup import export_hint, process_age
from flowcam_ns.viewer.panel import FlowCamPanel
from flowcam_ns.viewer.uncertainty import colours, describe

CPU_VIEWER_RESOLUTION = 192
STATUS_EVERY = 10
NOT_REFINED = (
    "Cameras stay as the checkpoint has them: refining them needs what flow told of their errors, which only the run "
    "that solved them knows"
)
NETWORK_FLAGS = "--pipeline.model.views, --pipeline.model.checkpoint and --pipeline.model.network.*"
"""What decides whether a run has a network, and what is trained."""


@dataclass
class FlowCamPipelineConfig(VanillaPipelineConfig):
    """Poses from flow, then a field."""

    _target: type = field(default_factory=lambda: FlowCamPipeline)
    """target class to instantiate"""
    datamanager: FlowCamDataManagerConfig = field(default_factory=FlowCamDataManagerConfig)
    """specifies the datamanager config"""
    model: FlowCamModelConfig = field(default_factory=FlowCamModelConfig)
    """specifies the model config"""
    alignment: Annotated[AlignmentOptions, tyro.conf.arg(prefix_name=False)] = field(default_factory=AlignmentOptions)
    """How camera poses are solved from optical flow."""
    train_seconds: float = 0.0
    """Stop training the field after this many seconds spent in training steps; pose solve, pauses and views drawn
    for the viewer are not counted; 0 for no limit."""
    total_seconds: float = 0.0
    """Stop training this many seconds after the command was started, pose solve included; 0 for no limit. If given, it
    counts in place of train-seconds."""


class FlowCamPipeline(VanillaPipeline):
    """nerfstudio's pipeline, with a pose solve before the first step."""

    config: FlowCamPipelineConfig
    datamanager: FlowCamDataManager

    def __init__(
        self,
        config: FlowCamPipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        **kwargs: Any,
    ) -> None:
        with one_line_errors():
            super().__init__(config, device=device, test_mode=test_mode, **kwargs)
        on_cpu = torch.device(device).type == "cpu"
        self.viewer_panel = FlowCamPanel(CPU_VIEWER_RESOLUTION if on_cpu else None)
        self.viewer_panel.contexts_of = self._contexts_of
        self.viewer_panel.speed_of = lambda: self.flowcam.view_speed
        self._run_folder: Path | None = None
        self.field_started: float | None = None
        """When the poses were known and the field's training began (time.monotonic)."""
        self._trained_seconds = 0.0
        self._step_started: float | None = None
        self._alignment: Alignment | None = None

    @property
    def flowcam(self) -> FlowCamModel:
        """The model, with its own type."""
        return cast(FlowCamModel, self.model)

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
        """One step of the field; the first one solves the poses before."""
        with one_line_errors():
            if not self.flowcam.camera_optimizer.is_solved:
                self._solve()
            self._step_started = time.monotonic()
            if self.field_started is None:
                self.field_started = self._step_started
            self._refine_cameras(step)
            outputs, losses, metrics = super().get_train_loss_dict(step)
            every = self.config.model.network_every
            if every > 0 and step % every == 0:
                network_losses, network_metrics = self._network_step()
                losses, metrics = losses | network_losses, metrics | network_metrics
            return outputs, losses, metrics

    def _refine_cameras(self, step: int) -> None:
        """Poses and lens moved a little, in every copy and in the run's files, where the field sees them better."""
        refined = self.flowcam.refine_cameras(step)
        if refined is None:
            return
        CONSOLE.log(
            f"Refining the cameras with the field: error of brightness {refined.before:.5f} -> {refined.after:.5f} on "
            f"frames kept out; {'taken' if refined.taken else 'not taken'}"
        )
        if not refined.taken:
            return
        cameras = refined.cameras
        self.datamanager.set_cameras(cameras)
        self._show(cameras.c2w, cameras.posed)
        if self._run_folder is not None and self._alignment is not None:
            alignment = replace(self._alignment, c2w=cameras.c2w, camera=cameras.camera)
            write_run_files(self._run_folder, self.datamanager.frames, alignment)

    def _network_step(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One step of the network on a clip of the posed frames."""
        network = self.flowcam.network
        assert network is not None
        if network.needs_video:
            self.teach_network()
        return network.step(with_colours=self.config.model.views == "blend")

    def teach_network(self) -> None:
        """Give the network the posed frames at its size, with their flow; views that it renders need them too."""
        from flowcam_ns.alignment.estimate import flow_store

        network = self.flowcam.network
        assert network is not None
        frames, cameras = self.datamanager.frames, self.flowcam.camera_optimizer.cameras()
        posed = longest_run(cameras.posed)
        store = flow_store(frames, self.config.alignment)
        if self.config.model.checkpoint is not None and self.config.model.checkpoint.is_file():
            store = network_flow(frames, read_checkpoint(self.config.model.checkpoint), self.config.alignment)
        side = self.config.model.network.long_side
        video = network_video(frames, store, cameras.camera, posed, side, self.device)
        network.teach(video, cameras.c2w[posed], self.flowcam.scene_depth.depth()[0], posed.start)

    def _solve(self) -> None:
        frames = self.datamanager.frames
        paper = self.flowcam.network if self.config.model.network.paper else None
        checkpoint = self.config.model.checkpoint
        if checkpoint is not None and self.flowcam.network is not None:
            self.flowcam.network.start_from(read_checkpoint(checkpoint))
        with Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=CONSOLE, transient=True
        ) as bars:
            task = bars.add_task("Camera poses from optical flow", total=1.0)

            def report(stage: str, fraction: float, c2w: Tensor | None) -> None:
                bars.update(task, description=stage, completed=fraction)
                self.viewer_panel.status(f"**{stage}**: {fraction:.0%}")
                if c2w is not None:
                    self._show_unfinished(c2w)

            joint = paper is None and bool(self.config.model.refinement.steps)
            held_out = held_out_frames(len(frames))
            solved = reconstruct(frames, held_out, self.config.alignment, report, paper, checkpoint, joint)
        self._alignment = solved.alignment
        found = solved.alignment
        self.flowcam.adopt(solved.cameras, solved.inverse_depth, solved.confidence, found.information, found.foreign)
        if self.config.model.views == "latent":
            self.teach_network()
        self._spread_cameras(solved.cameras)
        if self._run_folder is not None:
            write_run_files(self._run_folder, frames, solved.alignment)
        for line in summary(solved.alignment, frames.sources):
            CONSOLE.log(line)

    def _spread_cameras(self, cameras: EstimatedCameras) -> None:
        """Cameras into every copy that nerfstudio keeps, and into the viewer; the scene's extent with them."""
        self.datamanager.set_cameras(cameras)
        self.datamanager.leave_out(self.flowcam.scene_depth.foreign)
        if self.flowcam.field.scene is not None:
            self.datamanager.set_scene_box(self.flowcam.field.scene.box())
        self._show(cameras.c2w, cameras.posed)
        posed, sources = cameras.posed.nonzero()[:, 0].tolist(), self.datamanager.frames.sources
        self.viewer_panel.set_frames([f"{i}: {sources[i]}" for i in posed], cameras.c2w[posed].numpy())
        self._show_uncertainty(cameras, posed)
        first = int(cameras.posed.nonzero()[0])
        inverse = self.flowcam.scene_depth.depth()[0]
        seen = inverse[inverse > 0]
        depth = 1 / float(seen.median()) if len(seen) else 1.0
        lens = cameras.camera
        self.viewer_panel.set_start_view(cameras.c2w[first].numpy(), depth, 2 * math.atan(lens.height / 2 / lens.fy))

    def _show_uncertainty(self, cameras: EstimatedCameras, posed: list[int]) -> None:
        known = cameras.uncertainty
        if known is None:
            return
        centres = cameras.c2w[posed, :3, 3].numpy()
        position, rotation = known.position[posed].numpy(), known.rotation_deg[posed].numpy()
        extent = float(np.sqrt(np.square(centres - centres.mean(0)).sum(-1).mean()))
        names = [self.datamanager.frames.sources[i] for i in posed]
        text = describe(names, position, rotation, cameras.camera.fx, known.focal, extent)
        self.viewer_panel.show_uncertainty(text, centres, colours(position))

    def _contexts_of(self, c2w: Float[np.ndarray, "4 4"]) -> list[str]:
        """Names of the frames that a view is blended from, and their shares before visibility is known."""
        if not self.flowcam.views.ready:
            return []
        frames, prior = self.flowcam.views.contexts_of(View(torch.from_numpy(c2w).float().to(self.device)))
        sources = self.datamanager.frames.sources
        return [f"{sources[i]} ({share:.0%})" for i, share in zip(frames.tolist(), prior.tolist(), strict=True)]

    def _show_unfinished(self, c2w: Tensor) -> None:
        """Poses in the making: any world, and perhaps of a part of the clip only; moved to where they can be seen."""
        c2w = c2w.detach().cpu().double()
        centre = c2w[:, :3, 3].mean(0)
        reach = float((c2w[:, :3, 3] - centre).norm(dim=-1).max())
        shown = c2w[torch.arange(len(self.datamanager.frames)).clamp(max=len(c2w) - 1)].clone()
        shown[:, :3, 3] = (shown[:, :3, 3] - centre) * (0.5 / max(reach, 1e-9))
        self._show(shown, torch.arange(len(shown)) < len(c2w))

    def _show(self, c2w: Tensor, posed: Tensor) -> None:
        shown = dict(enumerate(self.datamanager.train_dataset.metadata["frame_index"].tolist()))
        self.viewer_panel.push_cameras(c2w.detach().cpu().double().numpy(), shown, posed.cpu().numpy())

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load a checkpoint, then put its cameras and depths back to where tools read them."""
        with one_line_errors():
            optimizer = self.flowcam.camera_optimizer
            stored = next((v for k, v in loaded_state.items() if k.endswith("camera_optimizer.c2w")), None)
            if stored is not None and len(stored) != optimizer.num_cameras:
                raise FlowCamError(
                    f"the checkpoint holds {len(stored)} frames but the input now gives {optimizer.num_cameras}: "
                    "the video or the frame options have changed since it was trained"
                )
            # nerfstudio would load what there is, and leave the rest untrained without a word.
            if self.flowcam.network is not None and not any("_model.network." in name for name in loaded_state):
                raise FlowCamError(
                    f"the checkpoint holds no network: leave out {NETWORK_FLAGS}, which its run did not have"
                )
            super().load_pipeline(loaded_state, step)
            if not optimizer.is_solved:
                return
            self.flowcam.rebuild_scene()
            if self.config.model.views == "latent":
                self.teach_network()
            cameras = optimizer.cameras()
            self.datamanager.drop_unposed(cameras)
            self._spread_cameras(cameras)
            depths = self.flowcam.scene_depth
            self._alignment = loaded_alignment(cameras, *depths.depth(), depths.foreign)
            if self.test_mode == "val" and any(due > step for due in self.config.model.refinement.steps):
                CONSOLE.log(NOT_REFINED)
            self.viewer_panel.status(f"Loaded from step {step}")

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """nerfstudio's callbacks, and ours after each step: status line, time budget, learning rate."""
        trainer = training_callback_attributes.trainer
        self._run_folder = None if trainer is None else trainer.base_dir
        if self._run_folder is not None and self._alignment is not None:
            with one_line_errors():
                write_run_files(self._run_folder, self.datamanager.frames, self._alignment)

        def after_step(step: int) -> None:
            # Between steps the viewer may hold training up, or the user; neither shall cost the field its time.
            if self._step_started is not None:
                self._trained_seconds += time.monotonic() - self._step_started
                self._step_started = None
            elapsed = self._trained_seconds
            if step % STATUS_EVERY == 0:
                self.viewer_panel.status(f"**Training the field**: step {step}, {elapsed:.0f} s")
            limit, spent = self.config.train_seconds, elapsed
            if self.config.total_seconds > 0:
                limit, spent = self.config.total_seconds, process_age()
            if trainer is not None:
                done = max((step + 1) / trainer.config.max_num_iterations, spent / limit if limit > 0 else 0)
                _fade(trainer, fading_share(done))
                if 0 < limit <= spent:
                    trainer.stop_training = True

        def after_train(step: int) -> None:
            self.viewer_panel.status(f"**Done** after {step + 1} steps")
            hint = export_hint()
            if hint is not None:
                CONSOLE.print(hint)

        own = [
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], after_step, update_every_num_iters=1),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], after_train),
        ]
        return super().get_training_callbacks(training_callback_attributes) + own

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, float]:
        """Means over the held-out frames, and pose scores where the input came with true poses."""
        with one_line_errors():
            metrics = super().get_average_eval_image_metrics(step, output_path, get_std)
            metrics |= self.pose_scores()
        return {name: value for name, value in metrics.items() if math.isfinite(value)}

    def pose_scores(self) -> dict[str, float]:
        """Scores of the estimated cameras of all frames (held-out frames' poses come from flow too)."""
        truth = self.datamanager.frames.ground_truth
        optimizer = self.flowcam.camera_optimizer
        if truth is None or not optimizer.is_solved:
            return {}
        cameras = optimizer.cameras()
        scores = score_trajectory(
            cameras.c2w, torch.from_numpy(truth.c2w), cameras.posed, cameras.camera, truth.camera
        ).as_dict()
        return {f"pose_{name}": float(value) for name, value in scores.items() if value is not None}


def _fade(trainer: Trainer, share: float) -> None:
    """Let the field learn at that share of its configured rate from now on."""
    optimizer = trainer.optimizers.optimizers.get("fields")  # views of the network's own field train none
    if optimizer is not None:
        for group in optimizer.param_groups:
            group["lr"] = trainer.config.optimizers["fields"]["optimizer"].lr * share
