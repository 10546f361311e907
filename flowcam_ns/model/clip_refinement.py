"""Motions of a whole clip made consistent: Gauss-Newton steps on flow over several gaps, every ray with one depth.

Two frames say nothing about how long their step is; that comes from the network's depths, frame by frame, and differs
from pair to pair. Flow over longer gaps sees the same surface from three and more places, which ties the lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.model import scene_flow
from flowcam_ns.model.motion_refinement import BEHIND, NEAREST, OUTLIER, damped_step, projected
from flowcam_ns.model.surfaces import RaySurfaces, on_unit_plane

LEAST_INVERSE = 0.05
"""Inverse depths stay above this share of what the network says."""
DAMPING = 1e-8
"""Share of the diagonal that is added to it: less than what depths say about the scale of all, which is little."""
LEAST_SPREAD = 1e-4
"""A smaller spread of depths counts as this: they are held all the same."""
DEPTH_STEPS = 2
"""Steps of the depths alone, before motions and depths move together."""


@dataclass(frozen=True)
class ClipState:
    """What the steps move."""

    c2w: Float[Tensor, "batch frames 4 4"]
    inverse: Float[Tensor, "batch later rays"]
    """Inverse depth of the rays of frames 1..n, over what the network says."""


@dataclass(frozen=True)
class _Seen:
    """Where the surfaces of a state fall, and how that changes."""

    R: Float[Tensor, "batch later gaps 3 3"]
    moved: Float[Tensor, "batch later gaps rays 3"]
    """In the cameras that see them."""
    by_point: Float[Tensor, "batch later gaps rays 2 3"]
    by_inverse: Float[Tensor, "batch later gaps rays 2"]
    residual: Float[Tensor, "batch later gaps rays 2"]
    errors: Float[Tensor, "batch later gaps rays"]
    """Squared, in standard deviations of the flow."""
    in_front: Bool[Tensor, "batch later gaps rays"]


@dataclass(frozen=True)
class ClipReprojection:
    """Surfaces of the frames 1..n, and where flow says that they are seen some gaps earlier."""

    points: Float[Tensor, "batch later rays 3"]
    """In their own cameras."""
    share: Float[Tensor, "batch later rays 1"]
    """How much of a translation a point makes: the ray's accumulation."""
    frames: Int[Tensor, "later gaps"]
    """Where they are seen; 0 with weight 0 where the clip does not reach back that far."""
    seen: Float[Tensor, "batch later gaps rays 2"]
    """On those cameras' planes at distance 1."""
    weights: Float[Tensor, "batch later gaps rays"]
    """Confidences, not negative; those of a frame sum to 1."""
    noise: Float[Tensor, "batch later gaps 1"]
    """Standard deviation of `seen`."""
    depth_spread: float
    """Standard deviation of an inverse depth as a share of it; 0 holds the surfaces."""

    @classmethod
    def of(
        cls,
        surfaces: RaySurfaces,
        K: Float[Tensor, "batch frames 3 3"],
        ends: dict[int, Float[Tensor, "batch ends rays 2"]],
        weights: dict[int, Float[Tensor, "batch ends rays"]],
        depth_spread: float,
        flow_noise: float,
    ) -> ClipReprojection:
        """From where flow ends that many frames earlier (fractions of the image), of the frames that reach so far.

        `surfaces` are those of the frames 1..n. All is float64 from here on.
        """
        later, gaps = surfaces.points.shape[1], list(ends)
        K = K.double()
        seen, trust, noise = [], [], []
        for gap in gaps:
            missing = gap - 1
            earlier = K[:, : later + 1 - gap]
            seen.append(_after(missing, on_unit_plane(ends[gap].double(), earlier)))
            trust.append(_after(missing, weights[gap].double()))
            noise.append(_after(missing, flow_noise * gap**0.5 / earlier[..., 0, 0, None], 1.0))
        weight = torch.stack(trust, dim=2)
        frames = torch.arange(1, later + 1)[:, None] - torch.tensor(gaps)
        return cls(
            points=surfaces.points.double(),
            share=surfaces.accumulation.double(),
            frames=frames.clamp(min=0).to(weight.device),
            seen=torch.stack(seen, dim=2),
            weights=weight / weight.sum((-2, -1), keepdim=True).clamp(min=1e-12),
            noise=torch.stack(noise, dim=2),
            depth_spread=depth_spread,
        )

    def start(self, relative: Float[Tensor, "batch pairs 4 4"]) -> ClipState:
        """Chained motions T(t <- t + 1), and depths after some steps of their own."""
        state = ClipState(scene_flow.chain(relative.double()), torch.ones_like(self.points[..., 0]))
        for _ in range(DEPTH_STEPS):
            state = self.improved(state, hold=True)
        return state

    def improved(self, state: ClipState, hold: bool = False) -> ClipState:
        """After one Gauss-Newton step; of the depths alone if motions `hold`. Frame 0 stays where it is."""
        seen = self._seen(state)
        robust = torch.ones_like(seen.errors) if hold else 1 / (1 + seen.errors / OUTLIER**2)
        weights = self.weights * seen.in_front * robust
        precise = weights / self.noise**2
        prior = weights.sum(2) / max(self.depth_spread, LEAST_SPREAD) ** 2 + 1e-12
        matrix_inverse = (precise * seen.by_inverse.square().sum(-1)).sum(2) + prior
        gradient_inverse = (precise * (seen.by_inverse * seen.residual).sum(-1)).sum(2) + prior * (state.inverse - 1)
        if hold:
            change = -gradient_inverse / matrix_inverse
            return ClipState(state.c2w, (state.inverse + change).clamp(min=LEAST_INVERSE))

        # A ray's depth concerns no other ray: it is eliminated (Schur complement) before rays are summed up.
        by_motion = self._by_motion(state, seen)
        left = by_motion * precise[..., None, None]
        across = _by_columns((left * seen.by_inverse[..., None]).sum(-2))
        matrix = _placed(left.flatten(3, 4).transpose(-1, -2) @ by_motion.flatten(3, 4))
        matrix = matrix - (across / matrix_inverse[..., None]).transpose(-1, -2) @ across
        gradient = _by_columns((left * seen.residual[..., None]).sum((3, 4))[..., None, :])[..., 0, :]
        gradient = gradient - torch.einsum("blrm,blr->blm", across, gradient_inverse / matrix_inverse)

        motions, own = self._solved(matrix, gradient, state.c2w.shape[1])
        change = -(gradient_inverse + torch.einsum("blrm,blm->blr", across, own)) / matrix_inverse
        return ClipState(state.c2w @ se3.exp(motions), (state.inverse + change).clamp(min=LEAST_INVERSE))

    def _seen(self, state: ClipState) -> _Seen:
        T = se3.between(state.c2w[:, self.frames], state.c2w[:, 1:, None])  # [batch later gaps 4 4]
        R, t = T[..., :3, :3], T[..., None, :3, 3]
        share = self.share * state.inverse[..., None]
        moved = self.points[:, :, None] @ R.transpose(-1, -2) + share[:, :, None] * t
        place, by_point = projected(moved)
        residual, in_front = place - self.seen, moved[..., 2] > NEAREST
        return _Seen(
            R=R,
            moved=moved,
            by_point=by_point,
            by_inverse=(by_point * t[..., None, :]).sum(-1) * self.share[:, :, None],
            residual=residual,
            errors=torch.where(in_front, residual.square().sum(-1) / self.noise**2, BEHIND),
            in_front=in_front,
        )

    def _by_motion(self, state: ClipState, seen: _Seen) -> Float[Tensor, "batch later gaps rays 2 12"]:
        """By tangents (v, omega) of the ray's own frame's pose, then of that where it is seen."""
        share = (self.share * state.inverse[..., None])[:, :, None, :, None]
        turned = (seen.by_point.flatten(3, 4) @ seen.R).unflatten(3, (-1, 2))
        by_own = [turned * share, torch.linalg.cross(self.points[:, :, None, :, None], turned)]
        by_other = [-seen.by_point * share, torch.linalg.cross(seen.by_point, seen.moved[..., None, :])]
        return torch.cat([*by_own, *by_other], dim=-1)

    def _solved(
        self,
        matrix: Float[Tensor, "batch later local local"],
        gradient: Float[Tensor, "batch later local"],
        frames: int,
    ) -> tuple[Float[Tensor, "batch frames 6"], Float[Tensor, "batch later local"]]:
        """The tangents of all frames that minimise the later frames' costs together, and the same by their columns."""
        places = self._columns(frames)
        whole = torch.einsum("lmf,blmn,lng->bfg", places, matrix, places)[:, 6:, 6:]
        slope = torch.einsum("lmf,blm->bf", places, gradient)[:, 6:]
        change = damped_step(whole, slope, DAMPING)
        change = torch.cat([torch.zeros_like(change[:, :6]), change], dim=1)
        return change.unflatten(1, (frames, 6)), torch.einsum("lmf,bf->blm", places, change)

    def _columns(self, frames: int) -> Float[Tensor, "later local unknowns"]:
        """Which unknowns of all frames a later frame's own columns are."""
        later = len(self.frames)
        touched = torch.cat([torch.arange(1, later + 1).to(self.frames)[:, None], self.frames], dim=1)
        chosen = torch.nn.functional.one_hot(touched, frames).to(self.points)  # [later 1+gaps frames]
        return torch.einsum("lgf,mn->lgmfn", chosen, torch.eye(6).to(chosen)).flatten(3).flatten(1, 2)


def _by_columns(pairs: Float[Tensor, "batch later gaps rows 12"]) -> Float[Tensor, "batch later rows local"]:
    """By a frame's own six columns, to which all gaps add, then by those of the frames where it is seen."""
    own, others = pairs.split(6, dim=-1)
    return torch.cat([own.sum(2), others.transpose(2, 3).flatten(3)], dim=-1)


def _placed(pairs: Float[Tensor, "batch later gaps 12 12"]) -> Float[Tensor, "batch later local local"]:
    """The same for both sides of matrices: the frames that see a ray do not concern each other."""
    others = torch.diag_embed(pairs[..., 6:, 6:].movedim(2, -1))  # [batch later 6 6 gaps gaps]
    others = others.permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)
    across = pairs[..., 6:, :6].flatten(2, 3)
    return torch.cat([_by_columns(pairs[..., :6, :]), torch.cat([across, others], dim=-1)], dim=2)


def _after(missing: int, x: Tensor, value: float = 0.0) -> Tensor:
    """`x` [batch frames ...] with so many frames put before it."""
    return torch.cat([x.new_full((len(x), missing, *x.shape[2:]), value), x], dim=1)


def refine_clip(
    relative: Float[Tensor, "batch pairs 4 4"], match: ClipReprojection, steps: int
) -> tuple[Float[Tensor, "batch pairs 4 4"], Float[Tensor, "batch pairs rays"]]:
    """Motions T(t <- t + 1) after some Gauss-Newton steps, differentiable in surfaces and weights; and how many times
    the network's the inverse depths of the frames 1..n are then.

    Only the last step is differentiated: at the optimum a Newton step from there has the optimum's own gradient
    (implicit function theorem), wherever it was reached from.
    """
    with torch.autocast(relative.device.type, enabled=False):
        with torch.no_grad():
            state = match.start(relative)
            for _ in range(steps - 1):
                state = match.improved(state)
        state = match.improved(state)
    motions = se3.between(state.c2w[:, :-1], state.c2w[:, 1:])
    return motions.to(relative.dtype), state.inverse.to(relative.dtype)
