"""The network beside the solve: its view of a clip, its training step, and the `paper` switch from frames to depths."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from flowcam_ns.alignment.estimate import estimate_poses, flow_store
from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.alignment.result import Alignment
from flowcam_ns.data.network_video import flow_error, longest_run, network_video
from flowcam_ns.data.solve import reconstruct
from flowcam_ns.flow.store import FlowStore
from flowcam_ns.geometry import se3
from flowcam_ns.model.clip_training import MAX_GRADIENT_NORM, ClipTrainingConfig
from flowcam_ns.model.network_stage import NetworkStage, NetworkStageConfig
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip

COUNT, WIDTH, HEIGHT = 16, 240, 136
OPTIONS = AlignmentOptions(cache=False)


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("orbit", seed=0, frames=COUNT, width=WIDTH, height=HEIGHT)


@pytest.fixture(scope="module")
def store(clip: SyntheticClip) -> FlowStore:
    return flow_store(clip.to_frames(), OPTIONS)


@pytest.fixture(scope="module")
def solved(clip: SyntheticClip, store: FlowStore) -> Alignment:
    return estimate_poses(clip.to_frames(), clip.camera, OPTIONS, flow=store)


def stage(**options: object) -> NetworkStage:
    torch.manual_seed(0)
    training = ClipTrainingConfig(steps=15, clip_length=4, context_rays=64, target_rays=16)
    return NetworkStage(NetworkStageConfig(long_side=64, training=training, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("posed", "run"),
    [([1, 1, 1], (0, 3)), ([0, 1, 1, 0, 1], (1, 3)), ([1, 0, 1, 1, 1], (2, 5)), ([0, 0], (0, 0))],
)
def test_longest_run_of_posed_frames(posed: list[int], run: tuple[int, int]) -> None:
    assert longest_run(torch.tensor(posed, dtype=torch.bool)) == slice(*run)


def test_the_networks_video_holds_small_frames_and_flow_backwards(clip: SyntheticClip, store: FlowStore) -> None:
    video = network_video(clip.to_frames(), store, clip.camera, slice(2, 7), 64, "cpu")
    assert video.frames.shape == (5, 3, 36, 64)
    assert float(video.frames.min()) >= -1
    assert float(video.frames.max()) <= 1
    truth, visible = clip.flow(4, 3)
    share = truth / [WIDTH, HEIGHT]
    measured = video.backward_flow[1].permute(1, 2, 0).numpy()
    centre = measured[18, 32], np.median(share[64:72, 116:124], axis=(0, 1))
    assert np.abs(centre[0] - centre[1]).max() < 0.004
    assert visible.any()
    # The lens in shares of the image: its middle is 1/2 whatever the size.
    assert video.intrinsics[:2, 2].tolist() == pytest.approx([0.5, 0.5])
    assert float(video.intrinsics[0, 0]) == pytest.approx(clip.camera.fx / WIDTH)


def test_flow_error_is_small_for_the_truth_and_grows_with_wrong_poses(
    clip: SyntheticClip, store: FlowStore, solved: Alignment
) -> None:
    inverse_depth = 1 / torch.from_numpy(clip.depth)
    truth = dataclasses.replace(solved, c2w=torch.from_numpy(clip.c2w), camera=clip.camera)
    wrong = dataclasses.replace(truth, c2w=truth.c2w @ se3.exp(0.05 * torch.eye(6)[3].double()))
    shuffled = dataclasses.replace(truth, c2w=truth.c2w.flip(0))
    assert flow_error(truth, inverse_depth, store) < 0.5
    assert flow_error(wrong, inverse_depth, store) > flow_error(truth, inverse_depth, store)
    assert flow_error(shuffled, inverse_depth, store) > 2


def test_the_solved_cameras_teach_the_network(clip: SyntheticClip, store: FlowStore, solved: Alignment) -> None:
    network = stage(every=1)
    assert network.needs_video
    video = network_video(clip.to_frames(), store, solved.camera, slice(0, COUNT), 64, "cpu")
    network.teach(video, solved.c2w, solved.inverse_depth)
    assert not network.needs_video
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)

    given = torch.get_rng_state()
    course = []
    for _ in range(45):
        losses, metrics = network.step()
        assert all(name.startswith("network_") for name in losses | metrics)
        assert float(metrics["network_rotation_deg"]) < 10
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        course.append(float(loss.detach()))
    assert sum(course[-6:]) < 0.8 * sum(course[:6])
    assert torch.equal(torch.get_rng_state(), given), "the field beside it must see the same rays as without it"
    assert network.poses().shape == (COUNT, 4, 4)


def test_a_network_beside_the_field_leaves_its_random_numbers_alone() -> None:
    torch.manual_seed(3)
    given = torch.get_rng_state()
    first = NetworkStage(NetworkStageConfig(every=1))
    assert torch.equal(torch.get_rng_state(), given)
    torch.manual_seed(4)
    other = NetworkStage(NetworkStageConfig(every=1))
    assert not all(torch.equal(x, y) for x, y in zip(first.parameters(), other.parameters(), strict=True))


def test_the_paper_switch_puts_the_networks_poses_in_place_of_the_solved_ones(
    clip: SyntheticClip, solved: Alignment
) -> None:
    frames = dataclasses.replace(clip.to_frames(), camera=clip.camera)
    stages = []
    result = reconstruct(frames, [4, 12], OPTIONS, lambda name, *_: stages.append(name), stage(paper=True))
    assert "Training the network" in stages
    c2w = result.cameras.c2w
    assert torch.allclose(c2w[:, :3, :3].transpose(1, 2) @ c2w[:, :3, :3], torch.eye(3).double().expand(COUNT, 3, 3))
    assert not torch.allclose(c2w, solved.c2w, atol=1e-4), "they are not the bundle adjustment's"
    motion, true_motion = (se3.inverse(p[:-1]) @ p[1:] for p in (c2w, torch.from_numpy(clip.c2w)))
    rotation = se3.rotation_angle_deg(motion[:, :3, :3].transpose(1, 2) @ true_motion[:, :3, :3])
    assert float(rotation.median()) < 1
    assert not torch.isfinite(result.alignment.inverse_depth_std).any(), "no depth of the solve is handed on"
    assert 0 < result.alignment.reprojection_error < 5
    assert not result.inverse_depth[[4, 12]].any(), "held-out frames have no depth"


def test_a_camera_that_only_turns_is_seen_at_a_constant_distance() -> None:
    clip = make_clip("pure_rotation", seed=0, frames=10, width=WIDTH, height=HEIGHT)
    result = reconstruct(clip.to_frames(), [3, 6], OPTIONS, lambda *_: None)
    assert result.alignment.warnings
    usable = [i for i in range(10) if i not in (3, 6)]
    assert result.inverse_depth[usable].unique().numel() == 1
    assert not result.inverse_depth[[3, 6]].any()
