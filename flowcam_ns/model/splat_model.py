"""nerfstudio's splatfacto, started from our points: Gaussians are rasterised by gsplat, which needs CUDA."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.splatfacto import RGB2SH, SplatfactoModel, SplatfactoModelConfig
from torch import Tensor, nn

from flowcam_ns.console import one_line_errors
from flowcam_ns.errors import FlowCamError
from flowcam_ns.model.camera_types import can_render

NEEDS_CUDA = (
    "flowcam-splat needs a CUDA GPU, because gsplat rasterises on nothing else; "
    "on this machine use the method flowcam instead: ns-train flowcam --data ..."
)


def require_cuda() -> None:
    """Raise FlowCamError where Gaussians cannot be rasterised."""
    if not torch.cuda.is_available():
        raise FlowCamError(NEEDS_CUDA)


@dataclass
class FlowCamSplatModelConfig(SplatfactoModelConfig):
    """Gaussian splats, seeded with a dense point cloud."""

    _target: type = field(default_factory=lambda: FlowCamSplatModel)
    """target class to instantiate"""
    seed_opacity: float = 0.3
    """Opacity of the Gaussians at the start: higher than splatfacto's 0.1, because our points lie on surfaces."""


class FlowCamSplatModel(SplatfactoModel):
    """Splatfacto that can be built, loaded and exported without CUDA; only rendering needs it."""

    config: FlowCamSplatModelConfig

    def populate_modules(self) -> None:
        """Build Gaussians at the seed points; colours are set here because splatfacto does so on CUDA only."""
        seeds = self.seed_points
        if seeds is not None:
            self.seed_points = (seeds[0].clone(), seeds[1][:0])
        try:
            super().populate_modules()
        except OSError as error:
            raise FlowCamError(
                f"the AlexNet weights of splatfacto's LPIPS score could not be loaded ({error}): connect to the "
                "internet once, or point TORCH_HOME to a folder that holds them"
            ) from error
        if seeds is not None and len(seeds[1]) > 0 and not self.config.random_init:
            colour = seeds[1].float() / 255
            base = RGB2SH(colour) if self.config.sh_degree > 0 else torch.logit(colour, eps=1e-4)
            self.gauss_params["features_dc"] = nn.Parameter(base)
            opacity = torch.full((len(colour), 1), self.config.seed_opacity)
            self.gauss_params["opacities"] = nn.Parameter(torch.logit(opacity))

    def get_outputs(self, camera: Cameras) -> dict[str, Tensor | list]:
        """Rasterise one camera."""
        if not self.training:
            can_render(camera)
        with one_line_errors():
            require_cuda()
        return super().get_outputs(camera)

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Scores of a held-out frame; masked pixels count as right, as they do in the loss."""
        if "mask" in batch:
            rgb = outputs["rgb"]
            truth = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
            outputs = {**outputs, "rgb": torch.where(batch["mask"].to(rgb.device), rgb, truth)}
        return super().get_image_metrics_and_images(outputs, batch)

    def load_state_dict(self, dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """Take a checkpoint's Gaussians, however many; optimizers made before keep pointing at the parameters.

        Splatfacto replaces the parameters, so that a resumed run would train Gaussians that nobody sees.
        """
        before = list(self.gauss_params.items())
        try:
            return super().load_state_dict(dict, **kwargs)
        finally:
            for name, parameter in before:
                parameter.data = self.gauss_params[name].data
                self.gauss_params[name] = parameter
