"""Tables that set methods side by side on the same sequences: how good their poses are, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool

from _benchmark.methods import Outcome
from _benchmark.sequences import RecordedSequence
from _benchmark.tables import Row, Section
from flowcam_ns.geometry.metrics import PoseScores, constant_velocity_baseline, score_trajectory

ACCURACY_NOTE = (
    "ATE after a right-handed Sim(3) fit, in % of the true trajectory's RMS radius, over the posed frames; AUC over "
    "all pairs of frames, of the larger of rotation and translation-direction error, a pair with an unposed frame "
    "counting as missed; rotation: mean over the posed frames. Where a method poses other frames than ours does, both "
    "are also scored on the frames they share. Means are over all sequences and leave none out: AUC is 0 where nothing "
    "is posed, and an ATE that is missing somewhere has no mean. Constant velocity: a straight line at even speed."
)
COST_NOTE = (
    "Wall-clock of the stages from image files to poses, imports apart, each method in a process of its own, one after "
    "the other on the same cores, with an empty flow cache; processor seconds are those of all threads and suffer "
    "least from other work on the machine. Memory: largest resident set, imports included. Ratios: this method's time "
    "over ours. Times of failures count."
)


@dataclass(frozen=True)
class Race:
    """One sequence and what every method made of it."""

    sequence: RecordedSequence
    outcomes: list[Outcome]

    def scores(self, outcome: Outcome, frames: Bool[np.ndarray, "frames"] | None = None) -> PoseScores:
        """Scores against the truth, over the posed frames or some of them."""
        truth = self.sequence.truth
        return score_trajectory(
            torch.from_numpy(outcome.estimate.c2w),
            torch.from_numpy(truth.c2w),
            None if frames is None else torch.from_numpy(frames),
            outcome.camera,
            truth.camera,
        )

    def ours(self) -> Outcome | None:
        """Our own outcome, where we took part."""
        return next((outcome for outcome in self.outcomes if outcome.method == "ours"), None)


def accuracy_section(races: Sequence[Race]) -> Section:
    """Scores of every sequence and method, of the trivial trajectory, and their means over all sequences."""
    section = Section("Accuracy", notes=[ACCURACY_NOTE])
    for race in races:
        section.rows += [_accuracy_row(race, outcome) for outcome in race.outcomes]
        truth = torch.from_numpy(race.sequence.truth.c2w)
        trivial = score_trajectory(constant_velocity_baseline(len(truth)), truth)
        section.rows.append(_scores_row(race.sequence.name, "constant velocity", trivial))
    if len(races) > 1:
        titles = dict.fromkeys(str(row["poses"]) for row in section.rows)
        section.rows += [_mean_row(section.rows, title) for title in titles]
    return section


def _accuracy_row(race: Race, outcome: Outcome) -> Row:
    row = dict(_scores_row(race.sequence.name, outcome.title, race.scores(outcome)))
    row["remark"] = outcome.estimate.problem
    ours = race.ours()
    if ours is None or ours is outcome:
        return row
    shared = ours.estimate.posed & outcome.estimate.posed
    differ = (ours.estimate.posed != outcome.estimate.posed).any()
    if differ and shared.sum() >= 3:
        row["shared frames"] = int(shared.sum())
        row["ATE there, %"] = 100 * race.scores(outcome, shared).ate_relative
        row["ours there, %"] = 100 * race.scores(ours, shared).ate_relative
    return row


def _scores_row(name: str, title: str, scores: PoseScores) -> Row:
    return {
        "sequence": name,
        "poses": title,
        "posed": f"{scores.posed}/{scores.frames}",
        "ATE, %": 100 * scores.ate_relative,
        "AUC@5": scores.auc_5,
        "AUC@10": scores.auc_10,
        "AUC@30": scores.auc_30,
        "rotation, degrees": scores.mean_rotation_deg,
        "focal length, %": scores.focal_error_percent,
        "shared frames": None,
        "ATE there, %": None,
        "ours there, %": None,
        "remark": "",
    }


def _mean_row(rows: Sequence[Row], title: str) -> Row:
    """Means over all sequences of one method; not a number where one of them has none."""
    mine = [row for row in rows if row["poses"] == title]
    posed, frames = np.array([str(row["posed"]).split("/") for row in mine], dtype=int).sum(0)
    mean: dict[str, float | int | str | None] = dict.fromkeys(mine[0])
    for name in ("ATE, %", "AUC@5", "AUC@10", "AUC@30", "rotation, degrees", "focal length, %"):
        mean[name] = float(np.mean([_number(row[name]) for row in mine]))
    return {**mean, "sequence": "mean of all", "poses": title, "posed": f"{posed}/{frames}", "remark": ""}


def _number(value: float | int | str | None) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def cost_section(races: Sequence[Race]) -> Section:
    """Time of every stage, memory and ratios, and the totals over all sequences."""
    section = Section("Time and memory", notes=[COST_NOTE])
    for race in races:
        section.rows += [_cost_row(race.sequence.name, [outcome], race.ours()) for outcome in race.outcomes]
    for outcome in races[0].outcomes if len(races) > 1 else []:
        all_of_it = [one for race in races for one in race.outcomes if one.method == outcome.method]
        ours = [one for race in races for one in race.outcomes if one.method == "ours"]
        section.rows.append(_cost_row("all together", all_of_it, *ours))
    section.notes.append(f"{total_times(races)}.")
    return section


def total_times(races: Sequence[Race]) -> str:
    """One line: the time of every method over all sequences, and how that compares with ours."""
    totals: dict[str, float] = {}
    for race in races:
        for outcome in race.outcomes:
            totals[outcome.title] = totals.get(outcome.title, 0.0) + outcome.seconds
    ours = totals.get("ours")
    return f"{len(races)} sequences in all: " + ", ".join(
        f"{title} {seconds:.1f} s" + (f" ({seconds / ours:.1f} times ours)" if ours and title != "ours" else "")
        for title, seconds in totals.items()
    )


def _cost_row(name: str, outcomes: Sequence[Outcome], *ours: Outcome | None) -> Row:
    """One sequence, or the sum over several."""
    stages: dict[str, float] = {}
    for outcome in outcomes:
        for stage, seconds in outcome.estimate.stages.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    seconds, processor = _seconds(outcomes), _processor_seconds(outcomes)
    reference = [outcome for outcome in ours if outcome is not None]
    return {
        "sequence": name,
        "poses": outcomes[0].title,
        "seconds": seconds,
        "ratio": seconds / _seconds(reference) if reference else None,
        "processor, s": processor,
        "ratio of these": processor / _processor_seconds(reference) if reference else None,
        "peak memory, MiB": max((o.peak_mib for o in outcomes if o.peak_mib is not None), default=None),
        "stages": ", ".join(f"{stage} {value:.1f} s" for stage, value in stages.items()),
    }


def _seconds(outcomes: Sequence[Outcome]) -> float:
    return sum(outcome.seconds for outcome in outcomes)


def _processor_seconds(outcomes: Sequence[Outcome]) -> float:
    """NaN where one of them broke down before it could tell."""
    return sum(_number(outcome.estimate.processor_seconds) for outcome in outcomes)
