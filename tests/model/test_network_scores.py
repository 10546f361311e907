"""Scores of a clip's poses, and the trivial answers beside them."""

from __future__ import annotations

import pytest
import torch

from flowcam_ns.geometry import se3
from flowcam_ns.model.flow_losses import weighted_mean
from flowcam_ns.model.network_scores import pose_errors
from flowcam_ns.model.warm_cosine import WarmCosineConfig


def sideways(count: int = 6) -> torch.Tensor:
    """To the right at even speed, turning by one degree a frame."""
    turn = torch.deg2rad(torch.arange(count).double())
    c2w = se3.exp(torch.stack([torch.zeros(count).double()] * 4 + [turn, 0 * turn], dim=-1))
    c2w[:, 0, 3] = torch.arange(count)
    return c2w


def test_true_poses_in_any_scale_have_no_error_and_trivial_ones_do() -> None:
    truth = sideways()
    scaled = truth.clone()
    scaled[:, :3, 3] *= 5
    scores = pose_errors(scaled, truth)
    assert scores["rotation_deg"] == pytest.approx(0, abs=1e-5)
    assert scores["direction_deg"] == pytest.approx(0, abs=1e-3)
    assert scores["ate"] == pytest.approx(0, abs=1e-6)
    assert scores["still_rotation_deg"] == pytest.approx(1, abs=1e-5)
    assert scores["constant_rotation_deg"] == pytest.approx(1, abs=1e-5)
    assert scores["constant_direction_deg"] > 80
    turned = truth @ se3.exp(torch.deg2rad(torch.tensor([0, 0, 0, 3.0, 0, 0]).double()) * torch.arange(6)[:, None])
    assert pose_errors(turned, truth)["rotation_deg"] == pytest.approx(3, abs=0.05)


def test_nothing_is_said_where_the_truth_is_not_known() -> None:
    assert pose_errors(sideways(), torch.full((6, 4, 4), torch.nan)) == {}


def test_a_batch_weighs_its_clips_alike_however_much_flow_they_trust() -> None:
    values = torch.tensor([[1.0, 3.0], [10.0, 20.0]])
    weights = torch.tensor([[1.0, 1.0], [0.0, 0.01]])
    assert float(weighted_mean(values, weights)) == pytest.approx((2 + 20) / 2)
    assert float(weighted_mean(values[:1], torch.zeros(1, 2))) == 0


def test_the_learning_rate_is_plain_numbers_that_a_checkpoint_can_hold() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam([weight], lr=1.0)
    schedule = WarmCosineConfig(max_steps=100, warmup_steps=10).setup().get_scheduler(optimizer, 1.0)
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] < rates[5] < rates[9] > rates[50] > rates[100]
    assert rates[100] == pytest.approx(0.03)
    assert all(type(rate) is float for rate in rates)
