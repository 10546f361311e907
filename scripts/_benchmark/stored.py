"""Rows that were measured before, so that a long benchmark can be taken in parts and go on after a break."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from _benchmark.tables import Row, Value
from flowcam_ns.formats.atomic import write_json

Settings = Mapping[str, Value]


@dataclass(frozen=True)
class StoredRows:
    """One JSON file for each part of a benchmark; a part that was measured with other settings does not count."""

    folder: Path

    def find(self, part: str, settings: Settings) -> list[Row] | None:
        """The rows of a part measured with just these settings, or None."""
        file = self._file(part)
        if not file.is_file():
            return None
        content = json.loads(file.read_text(encoding="utf-8"))
        return content["rows"] if content["settings"] == dict(settings) else None

    def keep(self, part: str, settings: Settings, rows: Sequence[Row]) -> None:
        """Write the rows of a part, in place of what was there."""
        date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        write_json(
            self._file(part), {"settings": dict(settings), "measured": date, "rows": [dict(row) for row in rows]}
        )

    def _file(self, part: str) -> Path:
        return self.folder / f"{part.replace(':', '_')}.json"
