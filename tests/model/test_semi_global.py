"""Semi-global smoothing: its recursion is the cheapest path's cost, and its labels keep edges and drop specks."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcam_ns.model.semi_global import JUMP, JUMP_AT_EDGES, STEP, best_labels, path_costs

GREY = 0.5


def uncertain(truth: torch.Tensor, labels: int, cost: int = 300) -> torch.Tensor:
    """Costs of a picture whose true labels cost nothing and all others the same."""
    costs = torch.full((labels, *truth.shape), cost, dtype=torch.int16)
    return costs.scatter_(0, truth[None], 0)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), labels=st.integers(3, 6), length=st.integers(2, 6))
def test_a_row_costs_what_its_cheapest_path_costs(seed: int, labels: int, length: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    costs = torch.randint(0, 200, (labels, 1, length), generator=generator, dtype=torch.int16)
    brightness = torch.rand(1, length, generator=generator)
    found = path_costs(costs, brightness)[0, :, -1]

    def change(step: int) -> int:
        jump = JUMP / (1 + abs(float(brightness[0, step] - brightness[0, step - 1])) * 255 / 4)
        return round(max(jump, JUMP_AT_EDGES))

    # All paths to the row's last pixel, the common least cost of every step taken off as in equation 13.
    path = costs[:, 0, 0].tolist()
    for step in range(1, length):
        least = min(path)
        path = [
            int(costs[label, 0, step])
            + min(
                before + (0 if label == other else STEP if abs(label - other) == 1 else max(change(step), 0))
                for other, before in enumerate(path)
                if abs(label - other) <= 1 or before == least
            )
            - least
            for label in range(labels)
        ]
    # Upwards, downwards and backwards the last pixel of a single row has no path before it.
    assert (found - 3 * costs[:, 0, -1]).tolist() == path


def test_a_speck_takes_its_surroundings_label() -> None:
    truth = torch.full((20, 20), 4)
    costs = uncertain(truth, 10)
    costs[:, 7, 9] = 200
    costs[9, 7, 9] = 0
    assert (best_labels(path_costs(costs, torch.full((20, 20), GREY))).round() == 4).all()


def test_an_edge_that_is_seen_stays_where_it_is() -> None:
    truth = torch.full((20, 30), 2)
    truth[:, 13:] = 8
    assert torch.equal(best_labels(path_costs(uncertain(truth, 10), torch.full((20, 30), GREY))).round(), truth.float())


def test_an_edge_that_is_not_seen_follows_the_pictures() -> None:
    """Where nothing tells two surfaces apart for a few pixels, depth changes where brightness does."""
    truth = torch.full((20, 30), 2)
    truth[:, 13:] = 8
    costs = uncertain(truth, 10)
    costs[:, :, 10:18] = 100
    brightness = torch.full((20, 30), 0.2)
    brightness[:, 15:] = 0.8
    found = best_labels(path_costs(costs, brightness)).round()
    assert (found[:, :15] == 2).all()
    assert (found[:, 15:] == 8).all()


def test_a_label_between_two_is_found_by_the_parabola() -> None:
    labels = torch.arange(7.0)[:, None, None]
    costs = (20 * (labels - 3.25).square()).round().to(torch.int16).expand(7, 8, 8)
    found = best_labels(path_costs(costs, torch.full((8, 8), GREY)))
    # Paths pull a little towards whole labels; the nearest of those is .25 off.
    assert ((found - 3.25).abs() < 0.15).all()


def test_the_first_and_the_last_label_may_be_best() -> None:
    for label in (0, 5):
        truth = torch.full((6, 6), label)
        assert (best_labels(path_costs(uncertain(truth, 6), torch.full((6, 6), GREY))) == label).all()
