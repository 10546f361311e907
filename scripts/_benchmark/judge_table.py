"""The table of the independent judge: every method and the dataset's own poses before the same feature matches."""

from __future__ import annotations

import torch

from _benchmark.comparison import Race
from _benchmark.epipolar import EXPLAINED_PX, GAPS, PAIRS_PER_GAP, Candidate, judge, match_features, mean_of
from _benchmark.tables import Row, Section

TRUTH = "the dataset's own"

NOTE = (
    f"Median Sampson error, px, of SIFT matches, averaged over up to {PAIRS_PER_GAP} pairs of frames so many frames "
    f"apart; only matches count that at least one of the poses explains within {EXPLAINED_PX:.0f} px, the same ones "
    "for all. A pair with an unposed frame is missing from a method's averages (see pairs), and counts as lost against "
    "the dataset's own poses. Those are judged here like the others, not taken for the truth. No method was given "
    "these matches, but COLMAP works with SIFT features of its own, which are much like them."
)


def judge_section(title: str = "Independent judge: feature matches") -> Section:
    """The table without rows."""
    return Section(title, notes=[NOTE])


def judge_rows(race: Race) -> list[Row]:
    """One row for the dataset's own poses (where all frames share a lens) and one for each method."""
    frames, truth = race.sequence.frames, race.sequence.truth
    candidates: dict[str, Candidate] = {}
    if truth.camera is not None:
        candidates[TRUTH] = Candidate(torch.from_numpy(truth.c2w), truth.camera)
    for outcome in race.outcomes:
        if outcome.camera is not None:
            camera = outcome.camera.scaled_to(frames.width, frames.height)
            candidates[outcome.title] = Candidate(torch.from_numpy(outcome.estimate.c2w), camera)
    verdicts = judge(match_features(frames.images), candidates)
    rows: list[Row] = []
    for name in [TRUTH, *(outcome.title for outcome in race.outcomes)]:
        posed = [verdict for verdict in verdicts if name in verdict.median_px]
        rivals = [verdict for verdict in verdicts if TRUTH in verdict.median_px]
        won = [v for v in rivals if v.median_px.get(name, float("inf")) < v.median_px[TRUTH]]
        rows.append(
            {
                "sequence": race.sequence.name,
                "poses": name,
                "pairs": f"{len(posed)}/{len(verdicts)}",
                "matches": sum(verdict.matches for verdict in posed),
                **{f"{gap} apart, px": mean_of(verdicts, name, gap) for gap in GAPS},
                "all, px": mean_of(verdicts, name),
                "worst pair, px": max((verdict.median_px[name] for verdict in posed), default=None),
                "better than the dataset's, %": 100 * len(won) / len(rivals) if rivals and name != TRUTH else None,
            }
        )
    return rows
