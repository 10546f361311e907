"""What `pip install .` puts on a user's machine."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
SHIPPED = ("flowcam_ns", "method_configs", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy so that nothing is left behind in the project."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*SHIPPED, "tests"):
        path = PROJECT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(target), str(source)], check=True, capture_output=True)
    (file,) = target.glob("*.whl")
    return zipfile.ZipFile(file)


def test_every_source_file_is_in_it(wheel: zipfile.ZipFile) -> None:
    sources = {path.relative_to(PROJECT).as_posix() for path in PROJECT.glob("flowcam_ns/**/*.py")}
    configs = {f"flowcam_ns/{path.relative_to(PROJECT).as_posix()}" for path in PROJECT.glob("method_configs/**/*.py")}
    assert sources | configs == {name for name in wheel.namelist() if name.endswith(".py")}


def test_it_is_typed_and_licensed_and_claims_no_other_name(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert "flowcam_ns/py.typed" in names
    (licence,) = (name for name in names if name.endswith("licenses/LICENSE"))
    assert "Apache License" in wheel.read(licence).decode()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"flowcam_ns"}


def test_its_metadata_is_fit_for_a_package_index(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Name"] == "flowcam-ns"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).startswith("# ")
    assert metadata["Author"] == "FlowCam for nerfstudio contributors"
    assert metadata["Requires-Python"] == "<3.13,>=3.10"


def test_it_registers_the_methods_and_the_command(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    entry_points = wheel.read(name).decode()
    assert "[nerfstudio.method_configs]\nflowcam = flowcam_ns.method_configs.flowcam:flowcam_method" in entry_points
    assert "\nflowcam-splat = flowcam_ns.method_configs.flowcam_splat:flowcam_splat_method" in entry_points
    assert "[console_scripts]\nflowcam-poses = flowcam_ns.cli.poses:entrypoint" in entry_points
