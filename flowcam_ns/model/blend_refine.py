"""A small image network that mends what per-ray blending cannot see: softened detail, specks, seams at depth edges."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowcam_ns.model.blend_weights import RayBlend

INPUTS = 12
SPREAD_GAIN = 5.0


class BlendRefiner(nn.Module):
    """Adds a residual to a blended picture; it starts at zero.

    It sees only quantities that change smoothly along a camera path (means over contexts with different sharpness,
    never a single chosen context), so that its output does too.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(INPUTS, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.up = nn.Conv2d(2 * width, width, 1)
        self.merge = nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        if self.leave.bias is not None:
            nn.init.zeros_(self.leave.bias)

    def forward(
        self, rgb: Float[Tensor, "h w 3"], blend: RayBlend, prior: Float[Tensor, "contexts"]
    ) -> Float[Tensor, "h w 3"]:
        """`rgb` is the picture that `blend` gives, `prior` the contexts' weights."""
        size = rgb.shape[:2]
        image = refiner_inputs(rgb, blend, prior).reshape(*size, INPUTS).permute(2, 0, 1)[None]
        fine = F.relu(self.enter(image))
        coarse = F.relu(self.deep(F.relu(self.down(fine))))
        coarse = F.interpolate(self.up(coarse), size=size, mode="bilinear", align_corners=False)
        residual = self.leave(F.relu(self.merge(F.relu(fine + coarse))))
        return rgb + residual[0].permute(1, 2, 0)


def refiner_inputs(
    rgb: Float[Tensor, "h w 3"], blend: RayBlend, prior: Float[Tensor, "contexts"]
) -> Float[Tensor, "rays inputs"]:
    """What the refiner sees of a ray: the blend, a sharper and a blunter one, their spread, how sure it all is."""
    flat = rgb.reshape(-1, 3)
    sharp = blend.weights.square()
    sharp = (sharp / sharp.sum(0)).unsqueeze(-1)
    sharper = (sharp * blend.candidates).sum(0)
    blunter = (prior[:, None, None] * blend.candidates).sum(0)
    spread = (blend.weights.unsqueeze(-1) * (blend.candidates - flat).abs()).sum(0).mean(-1)
    extra = torch.stack([spread * SPREAD_GAIN, blend.confidence, blend.inside], dim=-1)
    gain = SPREAD_GAIN
    return torch.cat([flat - 0.5, gain * (sharper - flat), gain * (blunter - flat), extra], dim=-1)
