"""What the README tells a person to type exists: scripts, commands, subcommands, flags and the Python example."""

from __future__ import annotations

import ctypes
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from flowcam_ns.synthetic.clip import make_clip
from flowcam_ns.synthetic.video_file import write_video

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")

PRINT_HELPS = """
import contextlib, importlib.metadata, io, json, sys
points = {point.name: point for point in importlib.metadata.entry_points(group="console_scripts")}
helps = {}
for command in json.loads(sys.argv[1]):
    words, output = command.split(), io.StringIO()
    sys.argv = [*words, "--help"]
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        points[words[0]].load()()
    helps[command] = output.getvalue()
print(json.dumps(helps))
"""
"""All in one process, because importing nerfstudio takes longer than the rest."""


def commands() -> list[list[str]]:
    """Every command line of the README, in words."""
    blocks = re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]
    return [shlex.split(line) for line in lines]


def program(words: list[str]) -> str:
    """The command with its subcommand, where it has one."""
    has_subcommand = len(words) > 1 and re.fullmatch(r"[a-z-]+", words[1]) and not words[1].startswith("-")
    return " ".join(words[:2] if has_subcommand else words[:1])


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """The --help of every nerfstudio and flowcam command that the README uses."""
    wanted = {program(words) for words in commands() if words[0].startswith(("ns-", "flowcam-"))}
    if not _has_libusb():
        wanted = {name for name in wanted if not name.startswith("ns-export")}
    wanted |= {"flowcam-poses", "ns-train flowcam"}
    run = subprocess.run(
        [sys.executable, "-c", PRINT_HELPS, json.dumps(sorted(wanted))], capture_output=True, text=True, cwd=PROJECT
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_the_readme_shows_the_main_commands() -> None:
    shown = {program(words) for words in commands()}
    assert {"ns-train flowcam", "ns-eval", "ns-viewer", "flowcam-poses", "ns-train splatfacto", "bash"} <= shown


def test_every_script_named_exists() -> None:
    scripts = {word for words in commands() for word in words if word.startswith("scripts/")}
    assert scripts
    assert [name for name in scripts if not (PROJECT / name).is_file()] == []


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [name for name in links if not (PROJECT / name).exists()] == []


def test_every_flag_of_every_command_exists(helps: dict[str, str]) -> None:
    unknown = [
        f"{program(words)} {flag}"
        for words in commands()
        if program(words) in helps
        for flag in words
        if flag.startswith("--") and not _offers(helps[program(words)], flag)
    ]
    assert unknown == []


def test_every_flag_of_the_table_exists_for_both_commands(helps: dict[str, str]) -> None:
    (table,) = re.findall(r"^\| flag of .*?(?=\n\n)", README, re.MULTILINE | re.DOTALL)
    rows = table.splitlines()[2:]
    flags = re.findall(r"`--([\w-]+)`", "\n".join(row.split("|")[1] for row in rows))
    assert len(flags) >= 8
    assert [flag for flag in flags if not _offers(helps["flowcam-poses"], f"--{flag}")] == []
    prefix = "--frames."
    assert [flag for flag in flags if not _offers(helps["ns-train flowcam"], prefix + flag)] == []


def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    write_video(tmp_path / "video.mp4", make_clip("sideways", seed=1, frames=12, width=240, height=136).rgb)
    run = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "torch.Size([12, 4, 4])" in run.stdout


def _offers(help_text: str, flag: str) -> bool:
    # Switches are shown as --flag/--no-flag or with values; a longer flag of the same beginning must not count.
    return re.search(rf"{re.escape(flag)}(?![\w.-])", help_text) is not None


def _has_libusb() -> bool:
    try:
        ctypes.CDLL("libusb-1.0.so.0")
    except OSError:
        return False
    return True
