"""Measured figures as Markdown for people and JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Value = float | int | str | None
Row = Mapping[str, Value]


@dataclass
class Section:
    """One table: every row has the same keys, which are the column heads."""

    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Heading, table and notes."""
        parts = [f"### {self.title}"]
        if self.rows:
            parts.append(markdown_table(self.rows))
        parts += self.notes
        return "\n\n".join(parts)


def markdown_table(rows: Sequence[Row]) -> str:
    """A Markdown table with the keys of the first row as its head; numbers stand right."""
    heads = list(rows[0])
    aligned = ["---:" if isinstance(rows[0][head], int | float) else "---" for head in heads]
    lines = [heads, aligned, *([written(row[head]) for head in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def written(value: Value) -> str:
    """Numbers with three significant digits; what was not measured as a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, float):
        digits = 2 - math.floor(math.log10(abs(value))) if value else 2
        return f"{value:.{min(max(digits, 0), 4)}f}"
    return str(value)


def write_report(folder: Path, machine: Mapping[str, Value], sections: Sequence[Section]) -> None:
    """Write benchmark.md and benchmark.json into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    head = "\n".join(f"- {name}: {written(value)}" for name, value in machine.items())
    text = "\n\n".join([head, *(section.markdown() for section in sections)])
    (folder / "benchmark.md").write_text(text + "\n")
    content = {"machine": dict(machine), "sections": {s.title: {"rows": s.rows, "notes": s.notes} for s in sections}}
    (folder / "benchmark.json").write_text(json.dumps(_finite(content), indent=2) + "\n")


def _finite(value: object) -> object:
    """The same with None for numbers that JSON does not know."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
