"""The learning rate holds for half of a run, then falls to next to nothing without ever rising."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcam_ns.model.fading import LEAST, STEADY, fading_share


@given(st.floats(0, 1), st.floats(0, 1))
def test_it_never_rises(first: float, second: float) -> None:
    early, late = sorted((first, second))
    assert 1 >= fading_share(early) >= fading_share(late) >= LEAST


@pytest.mark.parametrize(("progress", "share"), [(0, 1), (STEADY, 1), (0.75, (1 + LEAST) / 2), (1, LEAST), (3, LEAST)])
def test_it_holds_then_falls_and_stays_there(progress: float, share: float) -> None:
    assert fading_share(progress) == pytest.approx(share)
