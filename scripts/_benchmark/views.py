"""How good rendered views are: `ns-train flowcam` and `ns-eval` as a user runs them, timed and weighed."""

from __future__ import annotations

import json
from pathlib import Path

from _benchmark.command import Finished, run
from _benchmark.tables import Row, Section


def views_section(images: Path, folder: Path) -> Section:
    """Train with defaults, evaluate the held-out frames."""
    section = Section(f"Views of {images.parent.name}")
    train = ["ns-train", "flowcam", "--data", str(images), "--output-dir", str(folder)]
    trained = run([*train, "--viewer.quit-on-train-completion", "True"], folder / "train.log")
    (config,) = folder.glob("*/flowcam/*/config.yml")
    scores = folder / "scores.json"
    pictures = folder / "eval"
    evaluate = ["ns-eval", "--load-config", str(config), "--output-path", str(scores)]
    evaluated = run([*evaluate, "--render-output-path", str(pictures)], folder / "eval.log")
    section.rows.append(_row(json.loads(scores.read_text())["results"], trained))
    section.notes.append(
        "Time from the command to its end, imports and pose estimation included; memory is the largest resident set. "
        f"ns-eval took {evaluated.seconds:.0f} s. Held-out frames' poses come from their flow, as for every frame; no "
        "colour, depth or seed point comes from them. Copy: the nearest frame in place of a rendering."
    )
    return section


def _row(scores: dict[str, float], trained: Finished) -> Row:
    """Every score that ns-eval reports, but for its spread over the frames and the rendering speed."""
    named = {name: value for name, value in scores.items() if not name.endswith("_std") and "rays" not in name}
    return {**named, "minutes": trained.seconds / 60, "memory, MiB": trained.peak_mib}
