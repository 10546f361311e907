"""The FlowCam network: frames and flow -> surfaces, confidences, camera motion, re-rendered frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flowcam_ns.model.clip import Clip
from flowcam_ns.model.encoder import build_encoder, encode_directions
from flowcam_ns.model.latent_field import LatentField
from flowcam_ns.model.motion import Matches, MotionOutput, solve_motion
from flowcam_ns.model.network_config import NetworkConfig
from flowcam_ns.model.scene_flow import CorrespondenceConfidence, gather_pixels, matched_features
from flowcam_ns.model.surfaces import RaySurfaces, SurfaceRenderer, pixel_coordinates, unit_rays


@dataclass
class NetworkOutput:
    """Everything the losses need."""

    motion: MotionOutput
    rendered: RaySurfaces | None
    """Frames 1..n at the target rays, from their context frames; None where there were no target rays."""


class FlowCamNetwork(nn.Module):
    """Encoder, radiance field and confidence; poses come from scene flow in closed form."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config)
        self.field = LatentField(config)
        self.confidence = CorrespondenceConfidence(config) if config.learned_confidence else None

    @property
    def renderer(self) -> SurfaceRenderer:
        """Renders rays with the network's field."""
        return SurfaceRenderer(self.field, self.config)

    def forward(
        self, clip: Clip, context_rays: Int[Tensor, "context_rays"], target_rays: Int[Tensor, "target_rays"]
    ) -> NetworkOutput:
        """Motion from the `context_rays`, then frames 1..n re-rendered at the `target_rays`: what training sees.

        Motions are those of each pair by itself. Moved together they are right whatever the surfaces, and teach less.
        """
        motion = self.estimate_motion(clip, context_rays, together=False)
        if len(target_rays) == 0:
            return NetworkOutput(motion, None)
        return NetworkOutput(motion, self.rerender(clip, motion.features, motion.c2w, target_rays))

    def encode(self, clip: Clip) -> Float[Tensor, "batch frames channels fh fw"]:
        """Features of every frame. A frame without a flow of its own borrows the next one's, and its rays."""
        first = clip.backward_flow[:, :1] if clip.first_flow is None else clip.first_flow[:, None]
        flow = torch.cat([first, clip.backward_flow], dim=1).flatten(0, 1)
        features = self.encode_frames(clip.images.flatten(0, 1), flow, clip.intrinsics.flatten(0, 1))
        return features.unflatten(0, clip.images.shape[:2])

    def encode_frames(
        self, images: Float[Tensor, "frames 3 h w"], flow: Float[Tensor, "frames 2 h w"], K: Float[Tensor, "frames 3 3"]
    ) -> Float[Tensor, "frames channels fh fw"]:
        """Features of single frames, each with its flow back to the one before it."""
        height, width = images.shape[-2:]
        pixels = self.pixel_coordinates(torch.arange(height * width, device=flow.device), (height, width), K)
        directions = unit_rays(pixels.expand(len(K), -1, 2), K)
        rays = encode_directions(directions, self.config.ray_frequencies)
        rays = rays.transpose(1, 2).unflatten(2, (height, width))
        return self.encoder(images, flow * self.config.flow_input_scale, rays)

    def estimate_motion(self, clip: Clip, rays: Int[Tensor, "rays"], together: bool = True) -> MotionOutput:
        """Steps 1 to 6 and 8 of the method: features, surfaces, confidences, poses and the flow they induce.

        Unless `together`, the config's joint steps are left out.
        """
        features = self.encode(clip)
        batch, frames = clip.images.shape[:2]
        uv_frame = self.pixel_coordinates(rays, clip.size, clip.intrinsics)
        uv_frames = uv_frame.expand(batch, frames, -1, 2)
        flow = gather_pixels(clip.backward_flow, rays)
        uv = uv_frames[:, 1:]
        partner_uv = uv + flow

        def rendered(maps: Tensor, K: Tensor, where: Tensor) -> RaySurfaces:
            surfaces = self.renderer.render_own(maps.flatten(0, 1), K.flatten(0, 1), where.flatten(0, 1))
            return RaySurfaces(*(x.float().unflatten(0, where.shape[:2]) for x in vars(surfaces).values()))

        surfaces = rendered(features, clip.intrinsics, uv_frames)
        K_partner = clip.intrinsics[:, 1:] if self.config.authors_conventions else clip.intrinsics[:, :-1]
        partner = rendered(features[:, :-1], K_partner, partner_uv)
        matched = matched_features(features, rays, uv, partner_uv, self.config.authors_conventions)
        matches = Matches(
            features=features,
            surfaces=surfaces,
            partner_surfaces=partner,
            uv=uv,
            flow=flow,
            weights=torch.ones_like(uv[..., :1]) if self.confidence is None else self.confidence(matched).float(),
            flow_confidence=None if clip.confidence is None else gather_pixels(clip.confidence[:, :, None], rays),
        )
        return solve_motion(matches, clip, self.config, together)

    def rerender(
        self,
        clip: Clip,
        features: Float[Tensor, "batch frames channels fh fw"],
        c2w: Float[Tensor, "batch frames 4 4"],
        rays: Int[Tensor, "rays"],
        own_context: bool | None = None,
    ) -> RaySurfaces:
        """Step 7: frames 1..n rendered from the features of their context frames, through the poses.

        `own_context` says whether a frame may be its own context (None: as the config does); scores must say no.
        """
        batch, pairs = clip.images.shape[0], clip.num_pairs
        targets = torch.arange(1, pairs + 1, device=rays.device)
        own_context = self.config.own_context if own_context is None else own_context
        contexts = context_views(pairs, self.config.num_context_views, own_context).to(rays.device)
        uv = self.pixel_coordinates(rays, clip.size, clip.intrinsics).expand(batch, pairs, -1, 2)
        return self.renderer.render_from_context(features, c2w, clip.intrinsics, targets, contexts, uv)

    def pixel_coordinates(
        self, rays: Int[Tensor, "rays"], size: tuple[int, int], like: Tensor
    ) -> Float[Tensor, "rays 2"]:
        """Where pixel indices lie in an image of this `size` (height, width), on the config's grid."""
        centre = 0.0 if self.config.authors_conventions else 0.5
        return pixel_coordinates(rays, size, centre).to(like.dtype)


def context_views(last: int, num_views: int, own_context: bool) -> Int[Tensor, "targets views"]:
    """Context frames of the targets 1..last: of [0, last, last // 2, ...] the first `num_views`.

    Unless `own_context`, a target is skipped in its own list and the next in line steps in; a clip too short for that
    repeats its views.
    """
    order = list(dict.fromkeys([0, last, last // 2, last // 4, 3 * last // 4, *range(last + 1)]))
    if own_context:
        return torch.tensor([0, last, last // 2][:num_views]).expand(last, -1)
    rows = []
    for target in range(1, last + 1):
        others = [frame for frame in order if frame != target]
        rows.append([others[k % len(others)] for k in range(num_views)])
    return torch.tensor(rows)
