"""The house in order: one version everywhere, every package shipped, every config field explained, a cheap import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flowcam_ns

PROJECT = Path(__file__).resolve().parents[1]
SOURCES = [*PROJECT.glob("flowcam_ns/**/*.py"), *PROJECT.glob("method_configs/**/*.py")]
HEAVY = ("torch", "torchvision", "nerfstudio", "numpy", "cv2", "av", "scipy", "matplotlib")


def test_the_same_version_stands_everywhere() -> None:
    pyproject = _search(r'^version = "(.+)"$', "pyproject.toml")
    assert pyproject == flowcam_ns.__version__
    assert pyproject == _search(r'^version: "?([^"\n]+)"?$', "CITATION.cff")
    assert pyproject == _search(r"^## (\d\S*)", "CHANGELOG.md")


def test_every_package_is_listed_for_installation() -> None:
    """Automatic discovery is off (see pyproject.toml), so a new folder must be added by hand."""
    block = _search(r"^packages = \[\n((?:  .+\n)+)\]", "pyproject.toml")
    listed = set(re.findall(r'"(.+)"', block))
    folders = {path.parent for path in SOURCES}
    assert listed == {".".join(_module_parts(folder)) for folder in folders}


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, flowcam_ns; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_public_python_function_is_reachable_and_others_are_refused() -> None:
    assert callable(flowcam_ns.estimate_poses)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = flowcam_ns.no_such_name


def test_every_config_field_is_explained() -> None:
    """The docstring under a field is what `--help` shows."""
    unexplained = [
        f"{path.relative_to(PROJECT)}: {name}" for path in SOURCES for name in _unexplained(ast.parse(path.read_text()))
    ]
    assert unexplained == []


def test_a_field_without_docstring_is_noticed() -> None:
    source = '@dataclass\nclass AnyConfig:\n    size: int = 3\n    """Its size."""\n    speed: float = 1.0\n'
    assert list(_unexplained(ast.parse(source))) == ["AnyConfig.speed"]


def _search(pattern: str, file: str) -> str:
    match = re.search(pattern, (PROJECT / file).read_text(), re.MULTILINE)
    assert match is not None, f"{file}: nothing matches {pattern}"
    return match.group(1)


def _module_parts(folder: Path) -> tuple[str, ...]:
    parts = folder.relative_to(PROJECT).parts
    return ("flowcam_ns", *parts) if parts[0] == "method_configs" else parts


def _unexplained(tree: ast.Module) -> Iterator[str]:
    """Public fields of config and option dataclasses that no string literal follows."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.ClassDef) and node.name.endswith(("Config", "Options")) and node.decorator_list):
            continue
        for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
            if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
                continue
            explained = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if not (explained or statement.target.id.startswith("_")):
                yield f"{node.name}.{statement.target.id}"
