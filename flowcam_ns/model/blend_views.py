"""The default views: blended from the frames' own colours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.model.blend_field import BlendField
from flowcam_ns.model.blend_guide import SurfaceGuide, pixel_pitch
from flowcam_ns.model.blend_training import patch_losses
from flowcam_ns.model.view import View, ViewRenderer


@dataclass(frozen=True)
class BlendPlan:
    """What the blend field needs to know of a whole view."""

    guide: SurfaceGuide
    spacing: float


class BlendViews(ViewRenderer):
    """Renders rays with a blend field, which keeps weights and scene."""

    def __init__(self, field: BlendField) -> None:
        self.field = field

    @property
    def ready(self) -> bool:
        """Whether the field has its scene."""
        return self.field.scene is not None

    @torch.no_grad()
    def plan(self, directions: Float[Tensor, "*rays 3"], view: View, training: bool) -> BlendPlan:
        """Where surfaces lie, and how sharp the view is."""
        axis = view.pose[:3, 2]
        spacing = self.field.spacing_of(directions, axis)
        if training and view.frame is not None:
            return BlendPlan(self.field.training_guide(view.frame), spacing)
        pitch = pixel_pitch(directions) if directions.ndim == 3 else 0.0
        guide = self.field.guide_for(view.pose[:3, 3], directions.reshape(-1, 3), axis, view.frame, pitch)
        return BlendPlan(guide, spacing)

    def render(
        self, origins: Float[Tensor, "*rays 3"], directions: Float[Tensor, "*rays 3"], view: View, plan: BlendPlan
    ) -> dict[str, Float[Tensor, "*rays channels"]]:
        """See `BlendField.forward`."""
        return self.field(origins, directions, view.frame, view.pose[:3, 2], plan.guide, plan.spacing)

    def contexts_of(self, view: View) -> tuple[Int[Tensor, "contexts"], Float[Tensor, "contexts"]]:
        """The frames that lend colours."""
        return self.field.colours_from(view.pose[:3, 3], view.pose[:3, 2], view.frame)

    def losses(self, rgb: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"]) -> dict[str, Tensor]:
        """Colour and sharpness."""
        return patch_losses(rgb, truth)
