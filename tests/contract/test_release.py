"""Test that the version is in one place, and that constraints, changelog and workflow agree with the project."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vistune

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
REQUIREMENTS = [Requirement(text) for text in [*PROJECT["dependencies"], *EXTRAS]]
LINES = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line]
CONSTRAINTS = dict(line.split("==") for line in LINES)


def test_the_version_is_only_in_the_package() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_changelog_begins_with_this_version() -> None:
    sections = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sections[0] == vistune.__version__


@pytest.mark.parametrize("requirement", [one for one in REQUIREMENTS if one.name != "vistune"], ids=str)
def test_every_dependency_has_a_tested_version_within_its_bounds(requirement: Requirement) -> None:
    assert CONSTRAINTS[canonicalize_name(requirement.name)] in requirement.specifier


def test_constraints_name_versions_and_nothing_else() -> None:
    """No index, no path, no local version such as +cpu, which only one index has."""
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line) for line in LINES)


def test_the_workflow_runs_targets_of_the_makefile() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    commands = [step.get("run", "") for step in workflow["jobs"]["check"]["steps"]]
    targets = [target for command in commands for target in re.findall(r"^make (\S+)", command, re.MULTILINE)]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"install", "lint", "test", "coverage", "docs"} <= set(targets)
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
