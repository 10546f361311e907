"""The pose estimation as a whole: rendered clips with estimated flow, and what cannot be posed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from flowcam_ns.alignment.estimate import estimate_poses
from flowcam_ns.alignment.first_flow import STILL, largest_motion
from flowcam_ns.alignment.measure import GOOD
from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.alignment.result import Alignment
from flowcam_ns.errors import FlowCamError
from flowcam_ns.flow.dis import DISFlow
from flowcam_ns.flow.store import FlowStore
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.metrics import PoseScores, constant_velocity_baseline, score_trajectory
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip, plan_clip
from flowcam_ns.synthetic.exact_flow import ExactFlowStore
from flowcam_ns.synthetic.motions import BENCHMARK_MOTIONS
from flowcam_ns.video.frames import Frames

WIDTH, HEIGHT = 192, 108
UNCACHED = AlignmentOptions(cache=False)


@pytest.fixture(scope="module")
def clips() -> Callable[[str], SyntheticClip]:
    """Short clips of the procedural scene, each rendered once."""
    made: dict[str, SyntheticClip] = {}

    def get(motion: str) -> SyntheticClip:
        if motion not in made:
            made[motion] = make_clip(motion, seed=1, frames=20, width=WIDTH, height=HEIGHT)
        return made[motion]

    return get


@dataclass
class Solved:
    """A clip, what was made of it, and the progress that was heard on the way."""

    clip: SyntheticClip
    found: Alignment
    progress: list[tuple[str, float, Any]]


@pytest.fixture(scope="module")
def solved(clips: Callable[[str], SyntheticClip]) -> Callable[[str], Solved]:
    """The clips with their solutions, each solved once."""
    done: dict[str, Solved] = {}

    def get(motion: str) -> Solved:
        if motion not in done:
            heard: list[tuple[str, float, Any]] = []
            found = estimate_poses(
                clips(motion).to_frames(), options=UNCACHED, progress=lambda *news: heard.append(news)
            )
            done[motion] = Solved(clips(motion), found, heard)
        return done[motion]

    return get


@pytest.fixture
def orbit(solved: Callable[[str], Solved]) -> tuple[SyntheticClip, Alignment]:
    """One clip with its solution."""
    return solved("orbit").clip, solved("orbit").found


def test_the_barrel_of_an_action_camera_is_told_from_its_focal_length() -> None:
    """Solved for last, barrel distortion was taken for a longer focal length and motions to match."""
    lens = replace(Camera.from_focal(WIDTH, HEIGHT, 0.8 * WIDTH), k1=-0.28)
    clip = make_clip("sideways", seed=1, frames=20, camera=lens)
    found = estimate_poses(clip.to_frames(), options=UNCACHED)
    scores = score_trajectory(found.c2w, torch.from_numpy(clip.c2w), found.posed, found.camera, lens)
    assert scores.posed == len(clip.c2w)
    assert scores.ate_relative < 0.005
    assert scores.auc_5 > 0.9
    assert scores.focal_error_percent is not None
    assert scores.focal_error_percent < 5
    assert -0.33 < found.camera.k1 < -0.23


def test_a_logo_of_a_tenth_of_the_picture_does_no_harm(clips: Callable[[str], SyntheticClip]) -> None:
    """Its flow says that nothing moves, which is to say that it is far away."""
    clip = clips("orbit")
    frames = clip.to_frames()
    images = frames.images.copy()
    noise = np.random.default_rng(0).integers(0, 255, (9, 16, 3)).astype(np.uint8)
    images[:, 72:, :64] = cv2.resize(noise, (64, 36), interpolation=cv2.INTER_NEAREST)
    found = estimate_poses(replace(frames, images=images), options=UNCACHED)
    scores = score_trajectory(found.c2w, torch.from_numpy(clip.c2w), found.posed)
    assert scores.posed == len(frames)
    assert scores.ate_relative < 0.01
    assert "% of the picture stays where it is" in found.warnings[0]


def frames_of(images: np.ndarray, name: str = "clip") -> Frames:
    return Frames(images, [str(index) for index in range(len(images))], np.arange(len(images)) / 30, name)


def scores_of(clip: SyntheticClip, found: Alignment) -> PoseScores:
    return score_trajectory(found.c2w, torch.from_numpy(clip.c2w), found.posed, found.camera, clip.camera)


@pytest.mark.parametrize("motion", BENCHMARK_MOTIONS)
def test_every_motion_is_found_from_small_rendered_frames(motion: str, solved: Callable[[str], Solved]) -> None:
    """Loose bars: a third of a second at 192 px; `scripts/benchmark.py` measures whole clips at full size."""
    clip, found = solved(motion).clip, solved(motion).found
    scores = scores_of(clip, found)
    assert scores.posed == 20
    assert scores.max_rotation_deg < 1.5
    assert scores.max_position_relative < 0.05
    trivial = score_trajectory(constant_velocity_baseline(20), torch.from_numpy(clip.c2w))
    assert scores.max_rotation_deg < trivial.max_rotation_deg
    assert scores.focal_error_percent < 25
    assert found.reprojection_error < 0.5
    assert found.warnings == []


def test_exact_flow_gives_exact_poses() -> None:
    plan = plan_clip("orbit", seed=2, frames=16, width=160, height=90)
    clip = plan.render()
    frames = clip.to_frames()
    scores = scores_of(clip, estimate_poses(frames, options=UNCACHED, flow=ExactFlowStore(plan, frames)))
    assert scores.max_rotation_deg < 0.05
    assert scores.max_position_relative < 1e-3
    assert scores.focal_error_percent < 0.5


def test_the_result_is_complete_and_consistent(orbit: tuple[SyntheticClip, Alignment]) -> None:
    clip, found = orbit
    frames, points = found.points.shape[:2]
    assert frames == len(clip)
    assert found.c2w.dtype == torch.float64
    assert found.inverse_depth.shape == found.inverse_depth_std.shape == (frames, points)
    assert found.rotation_std_deg is not None
    assert (found.rotation_std_deg > 0).all()
    assert np.isfinite(found.focal_std)
    assert set(found.lens_std) == {"cx", "cy", "k1", "k2", "p1", "p2"}
    assert all(0 < std < np.inf for std in found.lens_std.values())
    assert (found.camera.width, found.camera.height) == (WIDTH, HEIGHT)
    assert {"flow", "solve"} <= set(found.seconds)
    assert found.unposed_reasons == {}
    # Unit size, z up: the cameras and the bulk of the points lie within about one unit.
    assert found.c2w[:, :3, 3].norm(dim=-1).max() < 2
    assert (-found.c2w[:, 2, 1]).mean() > 0.5


def test_the_depths_belong_to_the_poses(orbit: tuple[SyntheticClip, Alignment]) -> None:
    clip, found = orbit
    rows, columns = (found.points[..., axis].long() for axis in (1, 0))
    truth = torch.from_numpy(clip.depth)[torch.arange(len(clip))[:, None], rows, columns]
    radius = [
        c2w[:, :3, 3].sub(c2w[:, :3, 3].mean(0)).square().sum() for c2w in (torch.from_numpy(clip.c2w), found.c2w)
    ]
    scale = float((radius[0] / radius[1]).sqrt())
    error = (found.inverse_depth * truth / scale - 1).abs()
    deviation = found.inverse_depth_std / found.inverse_depth.clamp(min=1e-6)
    seen = torch.isfinite(deviation)
    sure = seen & (deviation < deviation[seen].median())
    assert error[seen].median() < 0.1
    assert error[sure].median() < error[seen & ~sure].median()


def test_two_runs_agree_to_the_last_digits(orbit: tuple[SyntheticClip, Alignment]) -> None:
    clip, first = orbit
    second = estimate_poses(clip.to_frames(), options=UNCACHED)
    assert (first.c2w - second.c2w).abs().max() < 1e-6
    assert first.camera.fx == pytest.approx(second.camera.fx, abs=1e-4)


def test_a_known_camera_is_kept(clips: Callable[[str], SyntheticClip]) -> None:
    clip = clips("forward")
    found = estimate_poses(clip.to_frames(), clip.camera, UNCACHED)
    assert found.camera.fx == pytest.approx(clip.camera.fx, rel=1e-9)
    assert found.camera.distortion == (0, 0, 0, 0)
    assert found.focal_std < 1e-3 * clip.camera.fx
    assert scores_of(clip, found).max_position_relative < 0.05


def test_progress_names_stages_and_hands_out_poses(solved: Callable[[str], Solved]) -> None:
    heard = solved("sideways").progress
    assert all(0 <= done <= 1 for _, done, _ in heard)
    assert len({stage for stage, _, _ in heard}) >= 2
    poses = [c2w for _, _, c2w in heard if c2w is not None]
    assert poses
    assert all(c2w.shape[1:] == (4, 4) for c2w in poses)


def test_a_cut_in_the_middle_is_named_and_the_longer_part_is_posed(clips: Callable[[str], SyntheticClip]) -> None:
    first = clips("orbit")
    second = make_clip("sideways", seed=2, frames=8, width=WIDTH, height=HEIGHT)
    found = estimate_poses(frames_of(np.concatenate([first.rgb[8:], second.rgb])), options=UNCACHED)
    assert found.posed.tolist() == [True] * 12 + [False] * 8
    assert set(found.unposed_reasons) == set(range(12, 20))
    assert all("cut" in reason for reason in found.unposed_reasons.values())
    (warning,) = found.warnings
    assert "8 of 20" in warning
    assert "cut" in warning
    assert torch.equal(found.c2w[12:], found.c2w[11].expand(8, 4, 4))
    assert torch.isinf(found.inverse_depth_std[12:]).all()
    scores = score_trajectory(found.c2w[:12], torch.from_numpy(first.c2w[8:]))
    assert scores.max_position_relative < 0.05


@pytest.mark.parametrize("seed", [0, 1])
def test_pure_rotation_is_told_and_its_rotations_are_right(seed: int) -> None:
    clip = make_clip("pure_rotation", seed=seed, frames=12, width=2 * WIDTH, height=2 * HEIGHT)
    found = estimate_poses(clip.to_frames(), options=UNCACHED)
    (warning,) = found.warnings
    assert "only turns" in warning
    centres = found.c2w[:, :3, 3]
    assert (centres - centres[0]).abs().max() < 1e-9
    truth = torch.from_numpy(clip.c2w)
    relative, true_relative = (se3.inverse(c2w[:1]) @ c2w for c2w in (found.c2w, truth))
    error = se3.rotation_angle_deg(relative[:, :3, :3].transpose(1, 2) @ true_relative[:, :3, :3])
    assert se3.rotation_angle_deg(true_relative[:, :3, :3]).max() > 3
    assert error.max() < 0.3
    assert torch.isfinite(found.c2w).all()
    assert abs(found.camera.fx / clip.camera.fx - 1) < 0.05


def test_three_frames_are_enough_and_two_are_not(clips: Callable[[str], SyntheticClip]) -> None:
    clip = clips("orbit")
    found = estimate_poses(frames_of(clip.rgb[:12:5]), clip.camera, UNCACHED)
    assert score_trajectory(found.c2w, torch.from_numpy(clip.c2w[:12:5])).max_rotation_deg < 2
    for count in (1, 2):
        with pytest.raises(FlowCamError, match="frames"):
            estimate_poses(frames_of(clip.rgb[:count]), options=UNCACHED)


def hopeless() -> Iterator[tuple[str, np.ndarray]]:
    random = np.random.default_rng(0)
    noise = random.integers(0, 255, (8, HEIGHT, WIDTH, 3), dtype=np.uint8)
    grey = np.full_like(noise, 128)
    yield "noise", noise
    yield "no texture", grey
    yield "no texture and flickering light", grey + np.arange(8, dtype=np.uint8)[:, None, None, None]
    yield "unrelated", np.concatenate([make_clip("orbit", s, 1, WIDTH, HEIGHT).rgb for s in range(1, 6)])
    yield "still", np.repeat(make_clip("orbit", 1, 1, WIDTH, HEIGHT).rgb, 8, axis=0)


@pytest.mark.parametrize(("name", "images"), [pytest.param(*case, id=case[0]) for case in hopeless()])
def test_pictures_without_a_camera_motion_are_refused(name: str, images: np.ndarray) -> None:
    with pytest.raises(FlowCamError) as refused:
        estimate_poses(frames_of(images, name), options=UNCACHED)
    assert str(refused.value).startswith(f"{name}: ")
    assert "\n" not in str(refused.value)


def test_what_is_fixed_to_the_camera_does_not_make_a_picture_stand_still() -> None:
    """A bonnet below the picture: between views that share nothing else, all flow that can be trusted is its own."""
    images = np.concatenate([make_clip("orbit", seed, 1, WIDTH, HEIGHT).rgb for seed in range(1, 6)])
    bonnet = np.random.default_rng(0).integers(0, 255, (HEIGHT // 4, WIDTH, 3), dtype=np.uint8)
    images[:, -len(bonnet) :] = cv2.GaussianBlur(bonnet, (0, 0), 2)
    store = FlowStore(images)
    points = store.good_points(8)
    targets, confidence = store.sample([(0, 4)], points)
    still = np.linalg.norm(targets[0] - points[0], axis=-1) < 0.2
    assert still[confidence[0] > GOOD].mean() > 0.5
    assert largest_motion(store, points) > STILL


class CountedDis(DISFlow):
    """DIS that counts its calls."""

    calls = 0
    lock = threading.Lock()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        with self.lock:
            CountedDis.calls += 1
        return super().__call__(*arguments, **named)


def test_after_ctrl_c_the_next_run_goes_on_from_the_cache(
    clips: Callable[[str], SyntheticClip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, options = clips("orbit"), AlignmentOptions(cache_dir=tmp_path)
    frames = frames_of(clip.rgb[:10])
    monkeypatch.setattr("flowcam_ns.alignment.estimate.make_estimator", lambda *_: CountedDis())
    monkeypatch.setattr(CountedDis, "calls", 0)

    def interrupt(stage: str, done: float, _c2w: object) -> None:
        if done > 0.5:
            raise KeyboardInterrupt(stage)

    with pytest.raises(KeyboardInterrupt):
        estimate_poses(frames, options=options, progress=interrupt)
    before = CountedDis.calls
    assert before > 0
    resumed = estimate_poses(frames, options=options)
    estimated = CountedDis.calls
    again = estimate_poses(frames, options=options)
    assert CountedDis.calls == estimated
    assert torch.equal(resumed.c2w, again.c2w)
    fresh = estimate_poses(frames, options=UNCACHED)
    whole = CountedDis.calls - estimated
    assert estimated - before < whole
    assert (fresh.c2w - resumed.c2w).abs().max() < 1e-6
    assert not [path for path in tmp_path.rglob("*") if "tmp" in path.suffix]
