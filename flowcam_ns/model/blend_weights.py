"""From what contexts show at samples to a ray's colour: densities along the ray, then weights of the contexts.

Both start from closed forms (agreement of depths, visibility) and are corrected by small networks whose last layer
starts at zero, so that the untrained field is the plain depth-warped blend.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.field_components.mlp import MLP
from torch import Tensor, nn

from flowcam_ns.errors import FlowCamError
from flowcam_ns.model.blend_sampling import ContextSamples

LEAST_WEIGHT = 1e-4
FRONT_SOFTNESS = 0.1
"""Width of the step from empty to solid in front of a surface, in distances between a surface and its side samples."""
LEAST_SOLID = 0.01
"""Share of a density that is left in front of a surface, so that training can bring it back."""
DENSITY_FEATURES = 10
CANDIDATE_FEATURES = 10
EPS = 1e-6


@dataclass
class RayBlend:
    """A ray's surface and what each context would paint there."""

    share: Float[Tensor, "rays samples"]
    """How much each sample shows (sums to 1)."""
    candidates: Float[Tensor, "contexts rays 3"]
    """Each context's colour."""
    weights: Float[Tensor, "contexts rays"]
    """How much each context counts (sums to 1)."""
    confidence: Float[Tensor, "rays"]
    """How far the contexts that see the surface agree on it, 0..1."""
    inside: Float[Tensor, "rays"]
    """1 where some context's image covers the surface."""
    inverse_distance: Float[Tensor, "rays"]
    """Expected inverse distance along the unit ray."""

    @classmethod
    def joined(cls, parts: Sequence[RayBlend]) -> RayBlend:
        """Blends of several bundles of rays as one."""
        first = parts[0]
        if len(parts) == 1:
            return first
        return cls(
            share=torch.cat([part.share for part in parts]),
            candidates=torch.cat([part.candidates for part in parts], dim=1),
            weights=torch.cat([part.weights for part in parts], dim=1),
            confidence=torch.cat([part.confidence for part in parts]),
            inside=torch.cat([part.inside for part in parts]),
            inverse_distance=torch.cat([part.inverse_distance for part in parts]),
        )


def small_network(inputs: int, width: int) -> nn.Sequential:
    """Two hidden layers and one output that starts at zero."""
    last = nn.Linear(width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), last)


class GatedMLP(nn.Module):
    """nerfstudio's MLP of the same size behind a learned gain that starts at zero.

    tiny-cuda-nn keeps all weights in one opaque tensor, so that its last layer alone cannot be set to zero.
    """

    def __init__(self, inputs: int, width: int, implementation: Literal["tcnn", "torch"]) -> None:
        super().__init__()
        if implementation == "tcnn" and importlib.util.find_spec("tinycudann") is None:
            raise FlowCamError(
                "this field is built on tiny-cuda-nn, which is not installed here: install it, or train with "
                "--pipeline.model.blend.implementation torch"
            )
        self.mlp = MLP(inputs, num_layers=3, layer_width=width, out_dim=1, implementation=implementation)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, features: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch 1"]:
        """The gated output, in the features' precision (tiny-cuda-nn computes in half)."""
        flat = features.reshape(-1, features.shape[-1])
        return (self.gain * self.mlp(flat).to(features)).reshape(*features.shape[:-1], 1)


class BlendWeights(nn.Module):
    """Weights of samples and contexts."""

    def __init__(
        self,
        width: int,
        misfit_px: float,
        misfit_relative: float,
        sample_spread: float,
        implementation: Literal["tcnn", "torch"] = "torch",
    ) -> None:
        super().__init__()
        self.misfit_px = misfit_px
        self.misfit_relative = misfit_relative
        self.sample_spread = sample_spread
        self.density, self.blend = (
            GatedMLP(inputs, width, "tcnn") if implementation == "tcnn" else small_network(inputs, width)
            for inputs in (DENSITY_FEATURES, CANDIDATE_FEATURES)
        )

    def forward(
        self, seen: ContextSamples, prior: Float[Tensor, "contexts"], rho: Float[Tensor, "rays samples"]
    ) -> RayBlend:
        """Volume-render samples and blend contexts; `rho` are inverse distances, `prior` the contexts' weights."""
        visible = torch.exp(-0.5 * (seen.misfit_px / self.misfit_px).square())
        reach = prior[:, None, None] * seen.inside
        share = self._shares(seen, reach, visible, rho)
        candidates = (share[None, ..., None] * seen.colours).sum(2)
        visible_k = (share * visible).sum(-1)
        trust_k = (share * seen.trust).sum(-1)
        inside_k = (share * seen.inside).sum(-1)
        reach_k = prior[:, None] * inside_k
        start = reach_k * (visible_k * (0.1 + 0.9 * trust_k) + LEAST_WEIGHT) + 1e-3 * LEAST_WEIGHT * prior[:, None]
        start = start / start.sum(0)
        mean = (start[..., None] * candidates).sum(0)
        offset = candidates - mean
        spread = (start[..., None] * offset.square()).sum(0).mean(-1).add(EPS).sqrt()
        features = torch.stack(
            [
                *(offset * 10).clamp(-3, 3).unbind(-1),
                torch.log(start + 1e-4) / 3,
                visible_k,
                trust_k,
                inside_k,
                torch.tanh((share * seen.misfit_px).sum(-1) / 3),
                torch.log(spread + 1e-3).expand_as(start) / 3,
                prior[:, None].expand_as(start),
            ],
            dim=-1,
        )
        weights = torch.softmax(torch.log(start + 1e-9) + self.blend(features)[..., 0], dim=0)
        confidence = (reach_k * visible_k * trust_k).sum(0) / (prior.sum() + EPS)
        return RayBlend(share, candidates, weights, confidence, inside_k.amax(0), (share * rho).sum(-1))

    def _shares(
        self, seen: ContextSamples, reach: Tensor, visible: Tensor, rho: Tensor
    ) -> Float[Tensor, "rays samples"]:
        """Volume-rendering weights: density where contexts have a surface, corrected by how their colours agree."""
        on_surface = torch.exp(-0.5 * (seen.relative_misfit / self.misfit_relative).square())
        # The side sample in front of a surface lies before it: any density there would draw the surface nearer.
        reached = (0.5 * self.sample_spread - seen.relative_misfit) / (FRONT_SOFTNESS * self.sample_spread)
        reached = torch.sigmoid(reached)
        votes = reach * (0.05 + seen.trust)
        total = votes.sum(0) + EPS
        agreement = (votes * on_surface).sum(0) / total
        solid = (votes * on_surface * (LEAST_SOLID + (1 - LEAST_SOLID) * reached)).sum(0) / total
        sight = reach * (visible + 0.05)
        sight = sight / (sight.sum(0) + EPS)
        mean = (sight[..., None] * seen.colours).sum(0)
        variance = (sight[..., None] * (seen.colours - mean).square()).sum(0).mean(-1)
        signed = torch.tanh(seen.relative_misfit / 0.1)
        centre = rho[:, rho.shape[1] // 2, None]
        features = torch.stack(
            [
                agreement,
                solid,
                torch.log(variance.add(EPS).sqrt() + 1e-3) / 3,
                (sight * visible).sum(0),
                (votes * signed).sum(0) / total,
                (votes * signed.clamp(min=0)).sum(0) / total,
                (reach * seen.trust).sum(0),
                torch.tanh((rho / centre.clamp(min=EPS) - 1) * 10),
                torch.tanh(rho[:, :1] / rho[:, -1:].clamp(min=EPS) - 1).expand_as(rho),
                (variance.add(EPS).sqrt() - variance.amin(1, keepdim=True).add(EPS).sqrt()) * 10,
            ],
            dim=-1,
        )
        density = 4 * solid * torch.exp(self.density(features)[..., 0].clamp(-8, 8))
        density = torch.cat([density[:, :-1], torch.full_like(density[:, -1:], 30.0)], dim=-1)
        passed = torch.cumsum(density, dim=-1) - density
        return torch.exp(-passed) * (1 - torch.exp(-density))
