"""Feed-forward poses: windows that share one scale, flow from the checkpoint's own RAFT, refinement from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from flowcam_ns.alignment.estimate import estimate_poses
from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.alignment.point_cloud import point_cloud
from flowcam_ns.alignment.watch import counted_effort
from flowcam_ns.data.network_lens import TYPICAL_FOCAL, estimate_lens, guessed_lens
from flowcam_ns.data.network_poses import alignment_of, network_alignment, network_flow, trajectory_of
from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.metrics import score_trajectory
from flowcam_ns.geometry.trajectory import align_sim3
from flowcam_ns.model.checkpoint import Checkpoint, read_checkpoint, to_authors_names, write_checkpoint
from flowcam_ns.model.clip_training import NetworkVideo
from flowcam_ns.model.flowcam_network import FlowCamNetwork
from flowcam_ns.model.network_config import small_config
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip
from flowcam_ns.video.frames import Frames

COUNT = 20
OPTIONS = AlignmentOptions(cache=False)


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("orbit", seed=0, frames=COUNT, width=240, height=136)


@pytest.fixture(scope="module")
def frames(clip: SyntheticClip) -> Frames:
    return clip.to_frames()


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "untrained.pt"
    write_checkpoint(path, FlowCamNetwork(small_config()), long_side=48)
    return path


def tiny_video(count: int) -> NetworkVideo:
    generator = torch.Generator().manual_seed(0)
    return NetworkVideo(
        frames=torch.rand(count, 3, 24, 32, generator=generator) * 2 - 1,
        backward_flow=0.02 * torch.randn(count - 1, 2, 24, 32, generator=generator),
        intrinsics=torch.tensor([[1.0, 0, 0.5], [0, 1.4, 0.5], [0, 0, 1]]),
    )


@pytest.mark.parametrize("count", [2, 5, 9, 10])
def test_windows_add_up_to_every_frame_in_one_scale(count: int) -> None:
    torch.manual_seed(0)
    network = FlowCamNetwork(dataclasses.replace(small_config(), joint_steps=0, pose_search=0))
    video = tiny_video(count)
    heard: list[float] = []
    parts = trajectory_of(network, video, lambda done, _c2w: heard.append(done), stride=4, window=5)
    whole = trajectory_of(network, video, stride=4, window=count)
    for name in ("c2w", "inverse_depth", "relative_std"):
        assert torch.allclose(getattr(parts, name), getattr(whole, name), atol=1e-4), name
        assert len(getattr(parts, name)) == count
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert network.training, "the network is left as it was"


@pytest.mark.parametrize(("count", "window"), [(2, 7), (7, 7), (8, 7), (12, 7), (13, 8), (30, 9)])
def test_windows_that_share_several_frames_add_up_to_every_frame_once(count: int, window: int) -> None:
    torch.manual_seed(0)
    network = FlowCamNetwork(small_config())
    heard: list[float] = []
    found = trajectory_of(network, tiny_video(count), lambda done, _: heard.append(done), stride=4, window=window)
    for name in ("c2w", "inverse_depth", "relative_std"):
        assert len(getattr(found, name)) == count
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


def test_a_trajectory_is_handed_on_upright_with_its_points_where_the_network_sees_them(
    clip: SyntheticClip, frames: Frames
) -> None:
    torch.manual_seed(0)
    found = trajectory_of(FlowCamNetwork(small_config()), tiny_video(COUNT), stride=4)
    alignment = alignment_of(frames, found, clip.camera)
    gauge = align_sim3(found.c2w, alignment.c2w)
    assert torch.allclose(gauge.apply_c2w(found.c2w), alignment.c2w, atol=1e-5)
    assert torch.allclose(alignment.inverse_depth, found.inverse_depth / gauge.scale.float(), rtol=1e-4)
    assert bool((alignment.points <= torch.tensor([clip.camera.width, clip.camera.height])).all())
    assert bool(torch.isinf(alignment.inverse_depth_std[0]).all()), "nothing confirms the first frame's depths"
    assert len(point_cloud(frames, alignment)) >= 0


def test_refined_poses_are_those_of_the_bundle_adjustment(clip: SyntheticClip, frames: Frames, untrained: Path) -> None:
    alone = network_alignment(frames, untrained, clip.camera, OPTIONS)
    refined = network_alignment(frames, untrained, clip.camera, OPTIONS, refine=True)
    truth, posed = torch.from_numpy(clip.c2w), torch.ones(COUNT, dtype=torch.bool)
    assert alone.camera == clip.camera
    assert alone.seconds.keys() >= {"lens", "flow", "network"}
    assert score_trajectory(refined.c2w, truth, posed).ate_relative < 0.03
    assert score_trajectory(alone.c2w, truth, posed).ate_relative > 0.03, "this network has learnt nothing"


def test_an_unknown_lens_costs_the_refinement_of_the_networks_poses_nothing(
    clip: SyntheticClip, frames: Frames
) -> None:
    with counted_effort() as from_network:
        refined = network_alignment(frames, Path("small"), None, OPTIONS, refine=True)
    with counted_effort() as from_nothing:
        alone = estimate_poses(frames, None, OPTIONS)
    assert 0 < from_network.steps < 0.5 * from_nothing.steps
    assert from_network.frame_steps < from_nothing.frame_steps
    assert abs(refined.camera.fx / alone.camera.fx - 1) < 0.01
    truth, posed = torch.from_numpy(clip.c2w), torch.ones(COUNT, dtype=torch.bool)
    assert score_trajectory(refined.c2w, truth, posed).ate_relative < 0.01


@pytest.mark.parametrize("prior", [None, 300.0])
def test_a_guessed_lens_is_what_the_file_says_or_typical(frames: Frames, prior: float | None) -> None:
    lens = guessed_lens(dataclasses.replace(frames, focal_prior=prior))
    assert lens.fx == lens.fy == pytest.approx(prior or TYPICAL_FOCAL * 240)


def test_the_lens_comes_from_a_few_frames_where_it_is_not_given(clip: SyntheticClip, frames: Frames) -> None:
    camera, focal_std, warnings = estimate_lens(frames, OPTIONS)
    assert abs(camera.fx / clip.camera.fx - 1) < 0.08
    assert 0 < focal_std < 30
    assert not warnings


def test_a_typical_lens_is_assumed_where_nothing_moves(frames: Frames) -> None:
    still = dataclasses.replace(frames, images=frames.images[[0] * COUNT])
    camera, focal_std, warnings = estimate_lens(still, OPTIONS)
    assert camera.fx == pytest.approx(TYPICAL_FOCAL * 240)
    assert focal_std == float("inf")
    assert "assumed" in warnings[0]


def test_the_checkpoints_own_raft_gives_the_flow(frames: Frames) -> None:
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    state = to_authors_names(FlowCamNetwork(small_config()).state_dict())
    with_raft = Checkpoint(state, raft_small(weights=None).state_dict(), 1, small_config(), long_side=64)
    store = network_flow(frames, with_raft, OPTIONS)
    assert store.estimator.name == "raft-small"
    assert "checkpoint" in store.estimator.key
    assert max(store.flow_height, store.flow_width) == 128
    assert network_flow(frames, dataclasses.replace(with_raft, raft={}), OPTIONS).estimator.name == "dis"


def test_too_few_frames_and_wrong_files_are_refused(frames: Frames, untrained: Path, tmp_path: Path) -> None:
    two = dataclasses.replace(frames, images=frames.images[:2])
    with pytest.raises(FlowCamError, match="at least"):
        network_alignment(two, untrained)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(FlowCamError, match=r"text\.pt is not"):
        network_alignment(frames, tmp_path / "text.pt")
    assert read_checkpoint(untrained).long_side == 48


def test_poses_of_the_published_network_are_rigid(frames: Frames, tmp_path: Path) -> None:
    from flowcam_ns.model.network_config import NetworkConfig

    torch.manual_seed(0)
    network = FlowCamNetwork(NetworkConfig())
    write_checkpoint(tmp_path / "published.pt", network, long_side=32)
    few = dataclasses.replace(frames, images=frames.images[:3], sources=["0", "1", "2"])
    found = network_alignment(few, tmp_path / "published.pt", None, OPTIONS)
    rotation = found.c2w[:, :3, :3]
    assert torch.allclose(rotation @ rotation.transpose(1, 2), torch.eye(3).double().expand(3, 3, 3), atol=1e-6)
    assert torch.isfinite(se3.inverse(found.c2w)).all()
