"""Solving from given poses: any world and scale will do, drift is removed, and nonsense falls back to nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flowcam_ns.alignment import given_start
from flowcam_ns.alignment.estimate import estimate_poses, flow_store
from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.alignment.watch import counted_effort
from flowcam_ns.flow.store import FlowStore
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.metrics import score_trajectory
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip

FRAMES = 20
OPTIONS = AlignmentOptions(cache=False)


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("orbit", seed=0, frames=FRAMES, width=240, height=136)


@pytest.fixture(scope="module")
def store(clip: SyntheticClip) -> FlowStore:
    return flow_store(clip.to_frames(), OPTIONS)


def drifting(clip: SyntheticClip) -> torch.Tensor:
    """The true poses in another world and scale, with errors of half a degree and 20 % of a step that add up."""
    truth = torch.from_numpy(clip.c2w)
    relative = se3.inverse(truth[:-1]) @ truth[1:]
    noise = torch.randn(FRAMES - 1, 6, generator=torch.Generator().manual_seed(0)).double()
    size = relative[:, :3, 3].norm(dim=-1).mean()
    noise[:, :3] *= 0.2 * size
    noise[:, 3:] *= float(np.deg2rad(0.5))
    poses = [se3.exp(torch.arange(6).double() / 7)]
    for motion in relative @ se3.exp(noise):
        poses.append(poses[-1] @ motion)
    c2w = torch.stack(poses)
    c2w[:, :3, 3] *= 7
    return c2w


def relative_ate(clip: SyntheticClip, c2w: torch.Tensor) -> float:
    posed = torch.ones(FRAMES, dtype=torch.bool)
    return score_trajectory(c2w, torch.from_numpy(clip.c2w), posed).ate_relative


def test_a_drifting_start_is_corrected_in_fewer_steps_than_nothing(clip: SyntheticClip, store: FlowStore) -> None:
    start = drifting(clip)
    with counted_effort() as from_start:
        solved = estimate_poses(clip.to_frames(), None, OPTIONS, flow=store, start=start)
    with counted_effort() as from_nothing:
        alone = estimate_poses(clip.to_frames(), None, OPTIONS, flow=store)
    assert 0 < from_start.steps < 0.5 * from_nothing.steps
    assert from_start.frame_steps == FRAMES * from_start.steps
    assert FRAMES < from_nothing.frame_steps < FRAMES * from_nothing.steps
    assert bool(solved.posed.all())
    assert relative_ate(clip, solved.c2w) < max(1.2 * relative_ate(clip, alone.c2w), 0.01)
    assert relative_ate(clip, solved.c2w) < 0.3 * relative_ate(clip, start)


def test_a_start_that_leads_nowhere_is_dropped(
    clip: SyntheticClip, store: FlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tumbling = se3.exp(2 * torch.randn(FRAMES, 6, generator=torch.Generator().manual_seed(0)).double())
    believed: list[float] = []
    shares = given_start.explained_shares
    monkeypatch.setattr(
        given_start, "explained_shares", lambda *x: believed.append(float(shares(*x).min())) or shares(*x)
    )
    solved = estimate_poses(clip.to_frames(), clip.camera, OPTIONS, flow=store, start=tumbling)
    assert believed[0] < given_start.BELIEVED
    assert relative_ate(clip, solved.c2w) < 0.03


def test_a_start_of_another_video_is_an_error(clip: SyntheticClip, store: FlowStore) -> None:
    with pytest.raises(ValueError, match="each of the 20 frames"):
        estimate_poses(clip.to_frames(), None, OPTIONS, flow=store, start=torch.eye(4).expand(3, 4, 4))


def test_a_start_at_rest_says_nothing(clip: SyntheticClip, store: FlowStore) -> None:
    still = torch.eye(4).expand(FRAMES, 4, 4)
    solved = estimate_poses(clip.to_frames(), clip.camera, OPTIONS, flow=store, start=still)
    assert relative_ate(clip, solved.c2w) < 0.03
