"""What a rendered view shows beside colour: flow to a neighbouring frame, surface normals, and the view's own pose."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.scene import ContextScene

FLOW_RANGE = 0.08
"""Flow, as a share of the image's width, at which the colour wheel is fully saturated."""
MIN_DEPTH = 1e-3
NORMAL_STEP_PX = 1.0
"""Distance, in px of the depth map, between the points whose cross product is a normal."""


def pose_of_rays(
    origins: Float[Tensor, "height width 3"], directions: Float[Tensor, "height width 3"]
) -> Float[Tensor, "4 4"]:
    """OpenCV camera-to-world of the pinhole camera that cast an image of rays."""
    forward = torch.nn.functional.normalize(directions.mean(dim=(0, 1)), dim=0)
    right = (directions[:, -1] - directions[:, 0]).mean(0)
    if float(right.norm()) < 1e-9:  # an image of one column has no left and right
        helper = directions.new_tensor([0.0, 0.0, 1.0] if abs(float(forward[2])) < 0.9 else [1.0, 0.0, 0.0])
        right = torch.linalg.cross(forward, helper)
    right = torch.nn.functional.normalize(right - (right @ forward) * forward, dim=0)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
    return se3.from_rotation_translation(rotation, origins[0, 0])


def induced_flow(
    points: Float[Tensor, "rays 3"],
    view: Float[Tensor, "4 4"],
    neighbour: Float[Tensor, "4 4"],
    camera: Camera,
) -> Float[Tensor, "rays 2"]:
    """Where world points seen from `view` move to in `neighbour`'s image, in px of `camera`; 0 behind a camera."""
    here = se3.transform(se3.inverse(view), points)
    there = se3.transform(se3.inverse(neighbour), points)
    visible = (here[:, 2] > MIN_DEPTH) & (there[:, 2] > MIN_DEPTH)
    safe = points.new_tensor([0.0, 0.0, 1.0])
    here, there = (torch.where(visible[:, None], p, safe) for p in (here, there))
    # Far outside the image the distortion polynomial means nothing: flow is clamped to the image's size.
    limit = float(max(camera.width, camera.height))
    return (camera.project(there) - camera.project(here)).clamp(-limit, limit)


def surface_outputs(
    points: Float[Tensor, "rays 3"],
    view: Float[Tensor, "4 4"],
    scene: ContextScene,
    frame: int,
    depth_rays: Float[Tensor, "h w 3"],
) -> dict[str, Float[Tensor, "rays 3"]]:
    """`flow` from `view` to a frame of the scene (colour wheel) and `normals` (0..1), read off that frame's depths.

    `depth_rays` are the rays (z = 1) of the pixels of the scene's depth maps.
    """
    from flowcam_ns.flow.color_wheel import flow_to_rgb

    c2w = scene.c2w[frame].to(points)
    flow = induced_flow(points, view.to(points), c2w, scene.camera)
    inverse_depth = scene.inverse_depth[frame].to(points)
    normals = normals_from_depth_map(points, inverse_depth, c2w, scene.camera, depth_rays.to(points))
    return {
        "flow": flow_to_rgb(flow, FLOW_RANGE * scene.camera.width),
        "normals": ((normals + 1) / 2).clamp(0, 1),
    }


def normals_from_depth_map(
    points: Float[Tensor, "rays 3"],
    inverse_depth: Float[Tensor, "h w"],
    c2w: Float[Tensor, "4 4"],
    camera: Camera,
    rays_cam: Float[Tensor, "h w 3"],
) -> Float[Tensor, "rays 3"]:
    """World-space unit normals of surface points, facing the camera of a frame whose inverse depth map is known.

    `rays_cam` are the rays (z = 1) of the map's pixels: reading them is cheaper than inverting the lens for each point.
    """
    height, width = inverse_depth.shape
    small = camera.scaled_to(width, height)
    local = se3.transform(se3.inverse(c2w), points)
    local = torch.cat([local[:, :2], local[:, 2:].clamp(min=MIN_DEPTH)], dim=-1)
    limit = points.new_tensor([width - 1.5, height - 1.5])
    pixels = torch.minimum(small.project(local).nan_to_num().clamp(min=0.5), limit)
    offsets = points.new_tensor([[0, 0], [NORMAL_STEP_PX, 0], [0, NORMAL_STEP_PX]])
    corners = pixels[None] + offsets[:, None]
    grid = corners / points.new_tensor([width, height]) * 2 - 1
    maps = torch.cat([inverse_depth[None], rays_cam.permute(2, 0, 1)])
    sampled = torch.nn.functional.grid_sample(
        maps[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0].permute(1, 2, 0)
    surface = sampled[..., 1:] / sampled[..., :1].clamp(min=MIN_DEPTH)
    normal = torch.linalg.cross(surface[2] - surface[0], surface[1] - surface[0])
    # (down x right) points back at the camera: its z is negative.
    length = normal.norm(dim=-1, keepdim=True)
    towards_camera = torch.nn.functional.normalize(-surface[0], dim=-1)
    normal = torch.where(length > 1e-12, normal / length.clamp(min=1e-12), towards_camera)
    return normal @ c2w[:3, :3].T
