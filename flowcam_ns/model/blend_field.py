"""The default field: a view blended from the context frames' own colours by visibility-aware weights.

Untrained it is a depth-warped, visibility-checked blend of the nearest frames; training only sharpens it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.precision import full_precision
from flowcam_ns.model.blend_context import choose_contexts, frame_colours
from flowcam_ns.model.blend_guide import SurfaceGuide, build_guide
from flowcam_ns.model.blend_pictures import ContextPictures, pixel_spacing
from flowcam_ns.model.blend_refine import BlendRefiner
from flowcam_ns.model.blend_sampling import forbidden_pixels, place_samples, sample_contexts
from flowcam_ns.model.blend_weights import BlendWeights, RayBlend
from flowcam_ns.model.exposure import ViewExposure, view_exposures
from flowcam_ns.model.exposure_fit import fit_exposures
from flowcam_ns.model.hidden_parts import without_hidden
from flowcam_ns.model.scene import ContextScene

LEAST_INVERSE_DEPTH = 1e-6
"""Typical inverse depth of a scene that lies at infinity altogether."""
RAYS_AT_ONCE = {"cpu": 8192}
"""Rays blended at once where no gradients are kept, by device: so few that a processor's cache holds them."""
MOST_RAYS_AT_ONCE = 65536
"""The same on other devices; bounds the memory of a large view."""
COARSEST_STRIDE = 4
"""At most so many px of the depth maps are skipped for small views, which shall follow a turning camera."""
KEPT_GUIDES = 256
"""Frames whose guides are kept between training steps."""


@dataclass
class BlendFieldConfig:
    """Settings of the blend field."""

    contexts: int = 3
    """Frames whose colours a view is blended from."""
    backups: int = 1
    """How many of those show only what the others do not see: each more that is averaged takes detail away."""
    context_scale: float = 2.0
    """Long side of the frames that colours are read from, relative to that of views; their own size at most."""
    guide_contexts: int = 3
    """Frames whose depth maps place the samples."""
    guide_detail: float = 0.8
    """Resolution of the guide relative to the depth maps."""
    sample_spread: float = 0.02
    """Relative distance of the side samples from the likeliest surface."""
    misfit_px: float = 1.5
    """Parallax error at which a context counts as not seeing a sample, px of an image with a long side of 512 px."""
    width: int = 24
    """Width of the networks that correct densities and weights."""
    implementation: Literal["tcnn", "torch"] = "torch"
    """What those networks run on: tiny-cuda-nn (CUDA only; a width of 16, 32, 64 or 128 is fastest) or torch."""
    refiner_width: int = 16
    """Channels of the image network that mends the blended picture; 0 leaves it out."""
    misfit_relative: float = 0.03
    """Relative depth error at which a sample counts as off the surface."""
    even_exposure: bool = True
    """Bring frames of different brightness, and a lens's dark corners, to the view's exposure before blending them."""


class BlendField(nn.Module):
    """Colour, depth and confidence of rays, read from the frames of a `ContextScene`."""

    def __init__(self, config: BlendFieldConfig | None = None) -> None:
        super().__init__()
        self.config = config or BlendFieldConfig()
        self.weights = BlendWeights(
            self.config.width,
            self.config.misfit_px,
            self.config.misfit_relative,
            self.config.sample_spread,
            self.config.implementation,
        )
        self.refiner = BlendRefiner(self.config.refiner_width) if self.config.refiner_width else None
        self.scene: ContextScene | None = None
        self._guides: dict[int, SurfaceGuide] = {}

    def set_scene(self, scene: ContextScene) -> None:
        """Take the frames to read from; call again whenever poses or depths have changed."""
        if not bool(scene.usable.any()):
            raise FlowCamError("the scene has no frame to render from: all are held out or without a pose")
        device = self.device
        self.scene = scene
        self._guides.clear()
        self._c2w = scene.c2w.detach().float().to(device)
        self._usable = scene.usable.to(device)
        shown = without_hidden(scene)
        masks = shown.masks
        self._forbidden = None if masks is None or bool(masks.all()) else forbidden_pixels(masks.to(device))
        self._images = shown.images.to(device).permute(0, 3, 1, 2)
        self._depths = torch.stack([shown.inverse_depth, shown.confidence], dim=1).float().to(device)
        known = (self._depths[:, 1] > 0.2) & self._usable[:, None, None]
        inverse = self._depths[:, 0][known] if bool(known.any()) else torch.ones(1, device=device)
        self._typical = max(float(inverse[:: max(1, len(inverse) // 100_000)].median()), LEAST_INVERSE_DEPTH)
        self._exposures = fit_exposures(scene).to(device) if self.config.even_exposure else None
        self._set_depth_rays(scene)

    def _set_depth_rays(self, scene: ContextScene) -> None:
        h, w = scene.inverse_depth.shape[1:]
        small = scene.camera.scaled_to(w, h)
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        self.depth_rays = small.unproject(torch.stack([x, y], dim=-1) + 0.5).to(self.device)
        self._depth_focal = small.fx

    def move_cameras(self, c2w: Float[Tensor, "frames 4 4"], camera: Camera) -> None:
        """Change poses and lens by so little that guides made before still serve; depths stay with their frames."""
        if self.scene is None:
            raise FlowCamError("the field has no scene yet: call set_scene first")
        lens = camera.scaled_to(self.scene.camera.width, self.scene.camera.height)
        self.scene = replace(self.scene, c2w=c2w, camera=lens)
        self._c2w = c2w.detach().float().to(self.device)
        self._set_depth_rays(self.scene)

    @property
    def device(self) -> torch.device:
        """Where the field computes."""
        return next(self.parameters()).device

    def contexts_of(
        self,
        origin: Float[Tensor, "3"],
        forward: Float[Tensor, "3"],
        count: int,
        exclude: int | None = None,
        backups: int = 0,
    ) -> tuple[Int[Tensor, "contexts"], Float[Tensor, "contexts"]]:
        """The `count` frames that suit a camera at `origin` looking along `forward` best, and their prior weights."""
        candidates = self._candidates(exclude)
        return choose_contexts(origin, forward, self._c2w, candidates, self._typical, count, backups)

    def colours_from(
        self, origin: Float[Tensor, "3"], axis: Float[Tensor, "3"], exclude: int | None = None
    ) -> tuple[Int[Tensor, "contexts"], Float[Tensor, "contexts"]]:
        """The frames that such a view's colours come from, and their prior weights."""
        return self.contexts_of(origin, axis, self.config.contexts, exclude, self.config.backups)

    def _candidates(self, exclude: int | None) -> Bool[Tensor, "frames"]:
        candidates = self._usable.clone()
        if exclude is not None:
            candidates[exclude] = False
        if not bool(candidates.any()):
            raise FlowCamError("a frame cannot be rendered from itself: at least two usable frames are needed")
        return candidates

    def spacing_of(self, directions: Float[Tensor, "*rays 3"], forward: Float[Tensor, "3"]) -> float:
        """How many px of its contexts a view's pixels lie apart: colours are averaged over so many. 1 where rays make
        no image.
        """
        assert self.scene is not None
        if directions.dim() != 3 or min(directions.shape[:2]) < 2:
            return 1.0
        return pixel_spacing(directions, forward, self.scene.camera)

    def guide_for(
        self,
        origin: Float[Tensor, "3"],
        directions: Float[Tensor, "rays 3"],
        forward: Float[Tensor, "3"],
        exclude: int | None = None,
        pitch: float = 0.0,
    ) -> SurfaceGuide:
        """Where surfaces lie around these rays; no finer than the view, whose pixels lie `pitch` radians apart."""
        near, _ = self.contexts_of(origin, forward, self.config.guide_contexts, exclude)
        stride = int(min(max(pitch * self._depth_focal, 1.0), COARSEST_STRIDE))
        depths = self._depths[near, :, ::stride, ::stride]
        return build_guide(
            origin,
            directions,
            forward,
            self._depth_focal * self.config.guide_detail / stride,
            self._c2w[near],
            self.depth_rays[::stride, ::stride],
            depths[:, 0],
            depths[:, 1],
        )

    @torch.no_grad()
    def training_guide(self, target: int) -> SurfaceGuide:
        """The guide of a whole frame seen from the others, kept for the next step."""
        if target not in self._guides:
            if len(self._guides) >= KEPT_GUIDES:
                self._guides.pop(next(iter(self._guides)))
            pose = self._c2w[target]
            directions = _turned(self.depth_rays.reshape(-1, 3), pose)
            self._guides[target] = self.guide_for(pose[:3, 3], directions, pose[:3, 2], target)
        return self._guides[target]

    def forward(
        self,
        origins: Float[Tensor, "*rays 3"],
        directions: Float[Tensor, "*rays 3"],
        exclude: int | None = None,
        forward: Float[Tensor, "3"] | None = None,
        guide: SurfaceGuide | None = None,
        spacing: float | None = None,
    ) -> dict[str, Tensor]:
        """Render rays of one camera; `directions` are unit, `exclude` is the frame being rendered.

        `forward` is the camera's optical axis (the rays' mean direction without it) and `spacing` what `spacing_of`
        tells of all rays: give both when a view is rendered in pieces, or the pieces may choose different contexts and
        be of different sharpness. Returns rgb [*rays, 3], depth along the unit ray,
        accumulation and confidence [*rays, 1]; without gradients also contexts [*rays, 3], which frames show it.
        """
        if self.scene is None:
            raise FlowCamError("the field has no scene yet: call set_scene first")
        shape = directions.shape[:-1]
        rays = directions.reshape(-1, 3)
        origin = origins.reshape(-1, 3)[0]
        axis = normalize(rays.mean(0) if forward is None else forward, dim=0)
        if guide is None:
            with torch.no_grad():
                guide = self.guide_for(origin, rays, axis, exclude)
        chosen, prior = self.colours_from(origin, axis, exclude)
        spacing = self.spacing_of(directions, axis) if spacing is None else spacing
        blend = self._blend_all(origin, rays, axis, guide, chosen, prior, spacing, exclude)
        rgb = (blend.weights[..., None] * blend.candidates).sum(0)
        if self.refiner is not None and len(shape) == 2 and min(shape) > 1:
            rgb = self.refiner(rgb.reshape(*shape, 3), blend, prior)
        out = {
            "rgb": rgb.reshape(-1, 3) if torch.is_grad_enabled() else rgb.reshape(-1, 3).clamp(0, 1),
            "depth": 1 / blend.inverse_distance[:, None].clamp(min=1e-3 * self._typical),
            "accumulation": blend.inside[:, None],
            "confidence": blend.confidence[:, None],
        }
        if not torch.is_grad_enabled():
            out["contexts"] = blend.weights.T @ frame_colours(chosen, len(self.scene)).to(rgb)
        return {name: value.reshape(*shape, value.shape[-1]) for name, value in out.items()}

    def blend_of(
        self,
        origin: Float[Tensor, "3"],
        rays: Float[Tensor, "rays 3"],
        axis: Float[Tensor, "3"],
        guide: SurfaceGuide,
        exclude: int,
    ) -> tuple[Int[Tensor, "contexts"], RayBlend]:
        """What rays of a frame's camera show, before the image network; and which contexts show it, none a backup: all
        of them shall tell where the camera stands.
        """
        chosen, prior = self.contexts_of(origin, axis, self.config.contexts, exclude)
        return chosen, self._blend_all(origin, rays, axis, guide, chosen, prior, 1.0, exclude)

    def _blend_all(
        self,
        origin: Float[Tensor, "3"],
        rays: Float[Tensor, "rays 3"],
        axis: Float[Tensor, "3"],
        guide: SurfaceGuide,
        chosen: Int[Tensor, "contexts"],
        prior: Float[Tensor, "contexts"],
        spacing: float,
        exclude: int | None,
    ) -> RayBlend:
        few = len(rays) if torch.is_grad_enabled() else RAYS_AT_ONCE.get(rays.device.type, MOST_RAYS_AT_ONCE)
        pieces = rays.split(few)
        pictures = ContextPictures(self._images, chosen, spacing, in_pieces=len(pieces) > 1)
        exposures: list[ViewExposure | None] = [None] * len(pieces)
        if self._exposures is not None:
            assert self.scene is not None
            # A frame that is rendered from the others has its own exposure, unless it is held out: then theirs.
            known = exclude is not None and bool(self._usable[exclude])
            whose = (torch.tensor([exclude]), prior.new_ones(1)) if known else (chosen, prior)
            exposures = view_exposures(self._exposures, pieces, axis, chosen, whose, self.scene.camera)
        return RayBlend.joined(
            [
                self._blend(origin, piece, guide, chosen, prior, pictures, exposure)
                for piece, exposure in zip(pieces, exposures, strict=True)
            ]
        )

    def _blend(
        self,
        origin: Float[Tensor, "3"],
        rays: Float[Tensor, "rays 3"],
        guide: SurfaceGuide,
        chosen: Int[Tensor, "contexts"],
        prior: Float[Tensor, "contexts"],
        pictures: ContextPictures,
        exposure: ViewExposure | None,
    ) -> RayBlend:
        assert self.scene is not None
        spread = self.config.sample_spread
        rho = place_samples(guide.lookup(rays), spread, 0.01 * spread * self._typical)
        forbidden = None if self._forbidden is None else self._forbidden[chosen]
        depths = self._depths[chosen]
        seen = sample_contexts(
            origin, rays, rho, self._c2w[chosen], self.scene.camera, pictures, depths, forbidden, exposure
        )
        return self.weights(seen, prior, rho)


@full_precision
def _turned(rays: Float[Tensor, "rays 3"], c2w: Float[Tensor, "4 4"]) -> Float[Tensor, "rays 3"]:
    """A camera's rays in the world."""
    return rays @ c2w[:3, :3].T
