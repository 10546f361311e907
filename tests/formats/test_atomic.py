"""What is written is there whole or not at all, and what others put there stays."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from flowcam_ns.errors import FlowCamError
from flowcam_ns.formats.atomic import MANIFEST, atomic_file, atomic_folder, check_output_folder, write_json, write_text


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def write(folder: Path, files: dict[str, str], overwrite: bool = False) -> None:
    with atomic_folder(folder, overwrite) as partial:
        for name, text in files.items():
            write_text(partial / name, text)


def test_an_interrupted_file_leaves_the_old_one_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def interrupted() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert contents(tmp_path) == {"a.txt": "old"}


def test_json_knows_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_folder_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_folder(tmp_path / "new") as partial:
            write_text(partial / "images/a.txt", "half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_second_run_leaves_the_first_result(tmp_path: Path) -> None:
    write(tmp_path / "out", {"images/a.txt": "1"})

    def interrupted() -> None:
        with atomic_folder(tmp_path / "out") as partial:
            write_text(partial / "images/a.txt", "2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert contents(tmp_path / "out") == {"images/a.txt": "1"}


def test_a_second_run_replaces_its_own_files_and_spares_what_was_added(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, {"images/1.txt": "a", "images/2.txt": "b", "old/3.txt": "c", "transforms.json": "{}"})
    (out / "notes.txt").write_text("mine")
    (out / "images/mine.txt").write_text("mine")
    write(out, {"images/1.txt": "A", "transforms.json": "[]"})
    assert contents(out) == {
        "images/1.txt": "A",
        "transforms.json": "[]",
        "notes.txt": "mine",
        "images/mine.txt": "mine",
    }
    assert not (out / "old").exists()


def test_a_folder_that_holds_something_else_is_refused_unless_asked_for(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FlowCamError, match="not empty"):
        write(tmp_path, {"a.txt": "1"})
    write(tmp_path, {"a.txt": "1"}, overwrite=True)
    assert contents(tmp_path) == {"a.txt": "1", "thesis.txt": "mine"}


def test_an_empty_folder_is_welcome(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "1"})
    assert contents(tmp_path) == {"a.txt": "1"}


def test_a_result_that_was_edited_is_not_replaced_silently(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, {"transforms.json": "{}"})
    (out / "transforms.json").write_text('{"edited": 1}')
    with pytest.raises(FlowCamError, match="changed"):
        write(out, {"transforms.json": "[]"})
    write(out, {"transforms.json": "[]"}, overwrite=True)
    assert contents(out) == {"transforms.json": "[]"}


def test_a_users_file_in_the_way_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, {"a.txt": "1"})
    (out / "b.txt").write_text("mine")
    with pytest.raises(FlowCamError, match=r"b\.txt"):
        write(out, {"a.txt": "2", "b.txt": "2"})
    assert contents(out) == {"a.txt": "1", "b.txt": "mine"}


def test_a_forged_manifest_deletes_nothing_outside(tmp_path: Path) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim.txt"
    write(out, {"a.txt": "1"})
    victim.write_text("mine")
    status = victim.stat()
    stamp = [status.st_size, status.st_mtime_ns]
    (out / MANIFEST).write_text(json.dumps({"files": {"../victim.txt": stamp, str(victim): stamp}}))
    write(out, {"c.txt": "1"})
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("source", ["", "images", "images/clip", "images/clip.mp4"])
def test_the_input_is_never_written_into(tmp_path: Path, source: str) -> None:
    path = tmp_path / source
    path.parent.mkdir(exist_ok=True)
    path.touch() if source.endswith("mp4") else path.mkdir(exist_ok=True)
    with pytest.raises(FlowCamError, match="holds the input"):
        check_output_folder(tmp_path, overwrite=True, source=path, subfolders=("images",))
    check_output_folder(tmp_path / "out", source=path, subfolders=("images",))


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(FlowCamError, match="is a file"):
        check_output_folder(tmp_path / "out")


def test_no_permission_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, who may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(FlowCamError, match="No permission"):
        check_output_folder(tmp_path / "deep/down/out")
