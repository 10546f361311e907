"""Drift spread over a trajectory: every camera as a similarity, tied to its neighbours as solved and across revisits.

Each node maps its camera's coordinates, in the units that its own depths have, to the world: x -> s R x + t. The solve
before gives all s = 1 and exact edges between neighbours; a revisit says otherwise, and least squares shares the
difference (rotation, position and scale) among all edges in between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from flowcam_ns.alignment.part import Part
from flowcam_ns.alignment.problem import FlowState
from flowcam_ns.geometry import se3

STEPS = 10
NODE = 7
"""Unknowns of a node: turn (3), shift (3), both in the camera's frame, and the logarithm of its scale."""
HELD = 1e9
"""Information that holds the first node."""


@dataclass(frozen=True)
class Edge:
    """Camera `target` seen from camera `source`, in units of the source's depths."""

    source: int
    target: int
    rotation: Float64[np.ndarray, "3 3"]
    translation: Float64[np.ndarray, "3"]
    log_scale: float
    """Logarithm of the source's units in one of the target's."""


def close_loops(part: Part, loops: list[Edge]) -> Part:
    """The part with its drift between revisits taken out; edges count places among its frames.

    Depths change with their frame's scale.
    """
    c2w = part.state.c2w.double().cpu().numpy()
    rotation, translation = c2w[:, :3, :3].copy(), c2w[:, :3, 3].copy()
    log_scale = np.zeros(len(c2w))
    chain = [_between(rotation, translation, k, k + 1) for k in range(len(c2w) - 1)]
    edges = [*chain, *loops]
    unit = 1 / float(part.state.inverse_depth.median())
    for _ in range(STEPS):
        step = _step(edges, rotation, translation, log_scale, unit)
        scale = np.exp(log_scale)[:, None]
        translation = translation + scale * np.einsum("nij,nj->ni", rotation, step[:, 3:6])
        rotation = rotation @ Rotation.from_rotvec(step[:, :3]).as_matrix()
        log_scale = log_scale + step[:, 6]
    result = part.state.c2w.clone()
    result[:, :3, :3] = torch.from_numpy(rotation).to(result)
    result[:, :3, 3] = torch.from_numpy(translation).to(result)
    depth = part.state.inverse_depth / torch.from_numpy(np.exp(log_scale)).to(result)[:, None]
    return Part(part.frames, FlowState(result, depth, part.state.lens))


def _between(rotation: np.ndarray, translation: np.ndarray, i: int, j: int) -> Edge:
    return Edge(i, j, rotation[i].T @ rotation[j], rotation[i].T @ (translation[j] - translation[i]), 0.0)


def _step(
    edges: list[Edge],
    rotation: Float64[np.ndarray, "nodes 3 3"],
    translation: Float64[np.ndarray, "nodes 3"],
    log_scale: Float64[np.ndarray, "nodes"],
    unit: float,
) -> Float64[np.ndarray, "nodes 7"]:
    """One Gauss-Newton step; positions count in `unit`s of length against radians."""
    count, nodes = len(edges), len(rotation)
    i, j = (np.array([getattr(edge, end) for edge in edges]) for end in ("source", "target"))
    back = rotation[i].transpose(0, 2, 1)
    turn = back @ rotation[j]
    shift = np.einsum("nij,nj->ni", back, translation[j] - translation[i]) / np.exp(log_scale[i])[:, None]
    measured = np.stack([edge.rotation for edge in edges])
    residual = np.zeros((count, NODE))
    residual[:, :3] = Rotation.from_matrix(measured.transpose(0, 2, 1) @ turn).as_rotvec()
    residual[:, 3:6] = (shift - np.stack([edge.translation for edge in edges])) / unit
    residual[:, 6] = log_scale[j] - log_scale[i] - np.array([edge.log_scale for edge in edges])
    by_source, by_target = np.zeros((count, NODE, NODE)), np.zeros((count, NODE, NODE))
    by_source[:, :3, :3], by_target[:, :3, :3] = -turn.transpose(0, 2, 1), np.eye(3)
    by_source[:, 3:6, :3] = se3.skew(torch.from_numpy(shift)).numpy() / unit
    by_source[:, 3:6, 3:6] = -np.eye(3) / unit
    by_target[:, 3:6, 3:6] = turn * np.exp(log_scale[j] - log_scale[i])[:, None, None] / unit
    by_source[:, 3:6, 6] = -shift / unit
    by_source[:, 6, 6], by_target[:, 6, 6] = -1, 1
    rows = np.arange(count)[:, None, None] * NODE + np.arange(NODE)[None, :, None] + np.zeros((1, 1, NODE), int)
    columns = [end[:, None, None] * NODE + np.zeros((1, NODE, 1), int) + np.arange(NODE) for end in (i, j)]
    jacobian = scipy.sparse.coo_matrix(
        (
            np.concatenate([by_source.ravel(), by_target.ravel()]),
            (np.tile(rows.ravel(), 2), np.concatenate([place.ravel() for place in columns])),
        ),
        shape=(count * NODE, nodes * NODE),
    ).tocsr()
    held = scipy.sparse.diags(np.where(np.arange(nodes * NODE) < NODE, HELD, 1e-9))
    normal = scipy.sparse.csc_matrix(jacobian.T @ jacobian + held)
    step = scipy.sparse.linalg.splu(normal).solve(-(jacobian.T @ residual.ravel()))
    return np.asarray(step).reshape(nodes, NODE)
