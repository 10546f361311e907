"""Cleaning dense inverse depths: agreement between frames, then smoothing that stops at colour edges."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera

EPS = 1e-9
COLOUR_SIGMA = 0.06
SPACING = (1, 2, 4, 8, 2)
HALF_TAPS = ((0, 1), (1, 0), (1, 1), (1, -1))


def agree_between_frames(
    inverse: Float[Tensor, "frames h w"],
    confidence: Float[Tensor, "frames h w"],
    c2w: Float[Tensor, "frames 4 4"],
    camera: Camera,
    neighbours: dict[int, list[int]],
    tolerance: float,
) -> tuple[Float[Tensor, "frames h w"], Float[Tensor, "frames h w"]]:
    """Replace each depth by the robust mean of its own and the neighbours' maps; confidence follows agreement.

    `camera` is the lens at the depth maps' size. Where a pixel is uncertain and its neighbours agree, theirs wins.
    """
    h, w = inverse.shape[1:]
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    rays = camera.unproject(torch.stack([x, y], dim=-1) + 0.5)
    typical = inverse[confidence > 0].median()
    fused, agreed = inverse.clone(), confidence.clone()
    for i, others in neighbours.items():
        said, trust = reprojected(inverse, confidence, c2w, camera, rays, i, others)
        fused[i], agreed[i] = _robust_mean(inverse[i], confidence[i], said, trust, tolerance, float(typical))
    return fused, agreed


def reprojected(
    inverse: Float[Tensor, "frames h w"],
    confidence: Float[Tensor, "frames h w"],
    c2w: Float[Tensor, "frames 4 4"],
    camera: Camera,
    rays: Float[Tensor, "h w 3"],
    i: int,
    others: list[int],
) -> tuple[Float[Tensor, "others h w"], Float[Tensor, "others h w"]]:
    """What other frames' maps say about frame i's inverse depth where its own depth projects to, and how surely."""
    T_other_self = se3.inverse(c2w[others]) @ c2w[i]
    T_self_other = se3.inverse(T_other_self)
    homogeneous = torch.einsum("nij,hwj->nhwi", T_other_self[:, :3, :3], rays)
    homogeneous = homogeneous + inverse[i][None, ..., None] * T_other_self[:, None, None, :3, 3]
    front = homogeneous[..., 2] > 1e-2
    pixels = camera.project(torch.cat([homogeneous[..., :2], homogeneous[..., 2:].clamp(min=1e-2)], dim=-1))
    grid = pixels / pixels.new_tensor([camera.width, camera.height]) * 2 - 1
    maps = torch.stack([inverse[others], confidence[others]], dim=1)
    sampled = F.grid_sample(maps, grid, align_corners=False, padding_mode="border")
    rho_other, trust = sampled.unbind(1)
    ray_other = homogeneous / homogeneous[..., 2:].clamp(min=1e-2)
    back_z = torch.einsum("nj,nhwj->nhw", T_self_other[:, 2, :3], ray_other)
    back_z = back_z + rho_other * T_self_other[:, None, None, 2, 3]
    inside = (grid.abs() < 1).all(dim=-1) & front & (back_z > 1e-2)
    return rho_other / back_z.clamp(min=1e-2), trust * inside


def _robust_mean(
    own: Tensor, own_trust: Tensor, said: Tensor, trust: Tensor, tolerance: float, typical: float
) -> tuple[Tensor, Tensor]:
    """Mean of the estimates near the most agreed-upon one, and a confidence from how many stand there."""
    estimates = torch.cat([own[None], said])
    weights = torch.cat([own_trust[None], trust])
    best, best_votes = own, torch.full_like(own, -1.0)
    for candidate in estimates:
        scale = tolerance * (candidate + 0.1 * typical)
        votes = (weights * torch.exp(-0.5 * ((estimates - candidate) / scale) ** 2)).sum(0)
        better = votes > best_votes * (1.0 + 1e-4)
        best, best_votes = torch.where(better, candidate, best), torch.where(better, votes, best_votes)
    near = weights * torch.exp(-0.5 * ((estimates - best) / (tolerance * (best + 0.1 * typical))) ** 2)
    total = near.sum(0)
    mean = (near * estimates).sum(0) / (total + EPS)
    mean = torch.where(total > EPS, mean, own)
    agreement = total / (weights.sum(0) + 0.2)
    return mean, agreement.clamp(0, 1) * (total / (total + 0.1))


def smooth_along_edges(
    inverse: Float[Tensor, "frames h w"],
    confidence: Float[Tensor, "frames h w"],
    guide: UInt8[Tensor, "frames height width 3"] | None,
    tolerance: float,
) -> tuple[Float[Tensor, "frames h w"], Float[Tensor, "frames h w"]]:
    """Sparse bilateral passes of growing reach: weak pixels are filled from confident ones of like colour."""
    h, w = inverse.shape[1:]
    out_rho, out_conf = torch.empty_like(inverse), torch.empty_like(confidence)
    for i in range(len(inverse)):
        colour = None
        if guide is not None:
            full = guide[i].permute(2, 0, 1)[None].float() / 255
            colour = F.interpolate(full, size=(h, w), mode="area")[0]
        out_rho[i], out_conf[i] = _smooth_one(inverse[i], confidence[i], colour, tolerance)
    return out_rho, out_conf


def _smooth_one(rho: Tensor, conf: Tensor, colour: Tensor | None, tolerance: float) -> tuple[Tensor, Tensor]:
    """Opposite taps count alike where the pixel itself is sure, so that slanted surfaces stay where they are."""
    for reach in SPACING:
        total, weighted = conf + 1e-4, (conf + 1e-4) * rho
        seen, taps = conf.clone(), 1.0
        for dy, dx in HALF_TAPS:
            pair = [(dy * reach, dx * reach), (-dy * reach, -dx * reach)]
            weights = [_tap_weight(rho, conf, colour, shift, tolerance) for shift in pair]
            both = torch.minimum(*weights)
            for shift, alone in zip(pair, weights, strict=True):
                weight = conf * both + (1 - conf) * alone
                total = total + weight
                weighted = weighted + weight * _shifted(rho, shift)
                seen = seen + 0.5 * weight
                taps += 0.25
        rho = weighted / total
        conf = torch.maximum(conf, 0.7 * (seen / taps))
    return rho, conf


def _tap_weight(rho: Tensor, conf: Tensor, colour: Tensor | None, shift: tuple[int, int], tolerance: float) -> Tensor:
    """How much the pixel at `shift` says about each pixel: its confidence, less where depth or colour differ."""
    far = ((_shifted(rho, shift) - rho) / (tolerance * rho + 1e-4 + EPS)).square() * conf
    weight = 0.5 * _shifted(conf, shift) * torch.exp(-0.5 * far)
    if colour is not None:
        weight = weight * torch.exp(-(_shifted(colour, shift) - colour).square().sum(0) / (2 * COLOUR_SIGMA**2))
    h, w = rho.shape
    dy, dx = shift
    weight[: max(0, -dy)] = 0
    weight[max(0, h - max(0, dy)) :] = 0
    weight[:, : max(0, -dx)] = 0
    weight[:, max(0, w - max(0, dx)) :] = 0
    return weight


def _shifted(image: Tensor, shift: tuple[int, int]) -> Tensor:
    """The image moved by (dy, dx), its border repeated."""
    dy, dx = shift
    h, w = image.shape[-2:]
    rows = (torch.arange(h) + dy).clamp(0, h - 1)
    columns = (torch.arange(w) + dx).clamp(0, w - 1)
    return image.index_select(-2, rows).index_select(-1, columns)
