"""Clips out of many videos: repeatable by step, shared between ranks, exact in lens and flow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowcam_ns.data.pretrain_clips import Prefetched, PretrainClips, PretrainClipsConfig
from flowcam_ns.data.pretrain_datamanager import PretrainDataManagerConfig
from flowcam_ns.data.pretrain_sources import Source
from flowcam_ns.data.pretrain_video import PretrainVideo, cropped
from flowcam_ns.errors import FlowCamError
from flowcam_ns.flow.estimator import make_estimator
from flowcam_ns.flow.raft import RAFTFlow
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip
from flowcam_ns.video.frames import Frames

FRAMES = 14
SMALL = PretrainClipsConfig(
    height=36, width=64, clip_length=4, context_rays=30, target_rays=10, videos_in_memory=2, flow="dis"
)


@dataclass(frozen=True)
class Filmed(Source):
    """A source that lies in memory."""

    frames: Frames | None = None

    def load(self, first: int, frames: int, max_size: int) -> Frames:
        if self.frames is None:
            raise FlowCamError("this one is broken")
        return self.frames


@pytest.fixture(scope="module")
def films() -> list[SyntheticClip]:
    return [make_clip("sideways", seed, frames=FRAMES, width=128, height=72) for seed in (0, 1, 2)]


@pytest.fixture(scope="module")
def sources(films: list[SyntheticClip]) -> list[Source]:
    return [Filmed(f"film{k}", "synthetic", Path(), k, frames=film.to_frames()) for k, film in enumerate(films)]


def equal(first: Any, second: Any) -> bool:
    same = [torch.equal(getattr(first.clip, name), getattr(second.clip, name)) for name in vars(first.clip)]
    return all(same) and torch.equal(first.context_rays, second.context_rays)


def test_a_step_gives_the_same_batch_in_every_run_and_another_step_another(sources: list[Source]) -> None:
    first, resumed = PretrainClips(sources, SMALL), PretrainClips(sources, SMALL)
    batches = [first.batch(step) for step in range(4)]
    assert equal(batches[3], resumed.batch(3))
    assert not equal(batches[2], batches[3])
    assert batches[0].clip.images.shape == (2, 4, 3, 36, 64)
    assert batches[0].c2w.shape == (2, 4, 4, 4)
    other_seed = PretrainClips(sources, replace(SMALL, seed=1))
    assert not equal(batches[0], other_seed.batch(0))


def test_two_ranks_see_together_what_one_sees_with_twice_the_batch(sources: list[Source]) -> None:
    whole = PretrainClips(sources, replace(SMALL, clips_per_batch=4))
    halves = [PretrainClips(sources, SMALL, rank=rank, world_size=2) for rank in range(2)]
    for step in range(3):
        together = torch.cat([half.batch(step).clip.images for half in halves])
        assert torch.equal(together, whole.batch(step).clip.images)
        assert torch.equal(halves[0].batch(step).target_rays, whole.batch(step).target_rays)


def test_videos_can_keep_their_shapes(films: list[SyntheticClip]) -> None:
    tall = replace(films[0].to_frames(), images=films[0].rgb[:, :, 30:70])
    assert tall.ground_truth is not None
    lens = replace(films[0].camera, width=40, cx=films[0].camera.cx - 30)
    tall = replace(tall, ground_truth=replace(tall.ground_truth, camera=lens))
    sources: list[Source] = [
        Filmed("tall", "synthetic", Path(), frames=tall),
        Filmed("wide", "synthetic", Path(), frames=films[1].to_frames()),
    ]
    clips = PretrainClips(sources, replace(SMALL, keep_shape=True, clips_per_batch=1, clips_per_visit=1))
    seen = {}
    for step in range(12):
        batch = clips.batch(step)
        shape = tuple(batch.clip.images.shape[-2:])
        seen[shape] = batch.clip.intrinsics[0, 0]
        assert batch.clip.backward_flow.shape[-2:] == shape
        assert int(batch.context_rays.max()) < shape[0] * shape[1]
    assert set(seen) == {(64, 36), (36, 64)}
    assert float(seen[64, 36][0, 0]) == pytest.approx(films[0].camera.fx / 40)


def test_flow_lens_and_poses_of_a_clip_belong_together(films: list[SyntheticClip]) -> None:
    film = films[0]
    video = PretrainVideo(film.to_frames(), film.camera, (36, 64), make_estimator("dis"))
    for indices in ([3, 6, 9, 12], [12, 9, 6, 3]):
        clip, c2w = video.clip(indices)
        assert torch.allclose(c2w, torch.from_numpy(film.c2w[indices]).float())
        exact, visible = film.flow(indices[1], indices[0])
        share = exact[::2, ::2] / [128, 72]
        found = clip.backward_flow[0, 0].permute(1, 2, 0).numpy()
        right, wrong = (
            np.median(np.linalg.norm(x, axis=-1)[visible[::2, ::2]]) for x in (found - share, found + share)
        )
        assert right < 0.5 / 128
        assert right < 0.4 * wrong
    own, _ = video.clip([4, 5, 6, 7])
    borrowed, _ = video.clip([0, 1, 2, 3])
    assert own.first_flow is not None
    assert borrowed.first_flow is not None
    assert torch.equal(borrowed.first_flow, borrowed.backward_flow[:, 0])
    before, _ = video.clip([3, 4])
    assert torch.equal(own.first_flow[0], before.backward_flow[0, 0])
    assert float(own.intrinsics[0, 0, 0, 0]) == pytest.approx(film.camera.fx / 128)


def test_cropping_keeps_the_rays_of_the_pixels_that_stay() -> None:
    camera = Camera(100, 60, 80, 82, 52, 31)
    images = np.zeros((1, 60, 100, 3), np.uint8)
    images[0, 25, 45] = 255
    square, lens = cropped(images, camera, 1.0)
    assert square.shape == (1, 60, 60, 3)
    row, column = np.argwhere(square[0, :, :, 0] == 255)[0]
    here, there = torch.tensor([column + 0.5, row + 0.5]), torch.tensor([45.5, 25.5])
    assert torch.allclose(lens.unproject(here.double()), camera.unproject(there.double()))
    tall, _ = cropped(images, camera, 0.5)
    assert tall.shape[1:3] == (60, 30)


def test_skips_and_direction_are_drawn_within_their_limits(sources: list[Source], films: list[SyntheticClip]) -> None:
    config = replace(SMALL, frame_skip=(2, 3), reverse=0.5, clips_per_batch=1)
    clips = PretrainClips(sources, config)
    found = set()
    for step in range(24):
        c2w = clips.batch(step).c2w[0].numpy()
        for film in films:
            at = [np.abs(film.c2w - pose).max(axis=(1, 2)).argmin() for pose in c2w]
            if np.allclose(film.c2w[at], c2w, atol=1e-5):
                found.update(np.diff(at).tolist())
    assert found == {2, 3, -2, -3}


def test_unusable_videos_are_left_out_and_a_heap_of_them_is_an_error(
    sources: list[Source], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [Filmed(f"broken{k}", "synthetic", Path(), k) for k in range(3)]
    clips = PretrainClips([*broken, sources[0]], replace(SMALL, clips_per_visit=1))
    for step in range(6):
        clips.batch(step)
    said = capsys.readouterr().out
    assert "broken1 (this one is broken)" in said
    assert said.count("broken1 (") == 1
    with pytest.raises(FlowCamError, match="this one is broken"):
        PretrainClips(broken, SMALL).batch(0)


@dataclass(frozen=True)
class Boastful(Filmed):
    """A source that promises far more frames than it has."""

    def count(self) -> int:
        return 1_000_000

    def load(self, first: int, frames: int, max_size: int) -> Frames:
        assert self.frames is not None
        left = len(self.frames) - first
        if left < 1:
            raise FlowCamError("no frames there")
        part = slice(first, first + frames)
        truth = self.frames.ground_truth
        assert truth is not None
        return replace(self.frames, images=self.frames.images[part], ground_truth=replace(truth, c2w=truth.c2w[part]))


def test_a_video_that_promises_too_much_is_still_used(films: list[SyntheticClip]) -> None:
    source = Boastful("boastful", "synthetic", Path(), frames=films[0].to_frames())
    clips = PretrainClips([source], replace(SMALL, clips_per_visit=1))
    assert [clips.batch(step).clip.images.shape[1] for step in range(3)] == [4, 4, 4]


def test_a_missing_lens_is_estimated_once_or_assumed(films: list[SyntheticClip]) -> None:
    bare = replace(films[0].to_frames(), ground_truth=None)
    source = Filmed("bare", "synthetic", Path(), frames=bare)
    assumed = PretrainClips([source], replace(SMALL, lens="typical")).batch(0)
    assert float(assumed.clip.intrinsics[0, 0, 0, 0]) == pytest.approx(0.85)
    assert torch.isnan(assumed.c2w).all()
    estimated = PretrainClips([source], SMALL).batch(0)
    focal = films[0].camera.fx / 128
    assert float(estimated.clip.intrinsics[0, 0, 0, 0]) == pytest.approx(focal, rel=0.2)


def test_prefetching_changes_nothing_and_survives_jumps(sources: list[Source]) -> None:
    plain, ahead = PretrainClips(sources, SMALL), Prefetched(PretrainClips(sources, SMALL).batch)
    for step in (0, 1, 2, 7, 3):
        assert equal(ahead(step), plain.batch(step))
    ahead.close()


def test_validation_clips_are_always_the_same(sources: list[Source]) -> None:
    first, second = PretrainClips(sources, SMALL), PretrainClips(sources, SMALL)
    second.batch(5)
    assert equal(first.validation_batch(2), second.validation_batch(2))
    assert first.validation_batch(0).clip.images.shape[:2] == (1, 4)


def test_each_process_computes_flow_on_its_own_gpu() -> None:
    config = PretrainDataManagerConfig(data=Path("synthetic"), clips=replace(SMALL, flow="raft-small"))
    manager = config.setup(device="cuda:1", world_size=2, rank=1)
    for clips in (manager.train_clips, manager.eval_clips):
        assert isinstance(clips.estimator, RAFTFlow)
        assert clips.estimator.device == torch.device("cuda:1")
