"""The repository's own papers: what they tell people to type is there."""

import re
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from heliograph.local.up import Ports, port_variable

ROOT = Path(__file__).parents[2]
PAPERS = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def make(*arguments: str) -> str:
    done = subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_make_alone_is_help_and_lists_every_target_that_people_use() -> None:
    listed = set(re.findall(r"^  make ([a-z-]+) ", make(), re.MULTILINE))
    assert make() == make("help")
    assert listed == TARGETS - {"sync", "prepare"}
    assert listed >= {"help", "lint", "format", "test", "demo", "up", "down", "bench", "docs", "clean"}


@pytest.mark.parametrize("target", sorted(TARGETS - {"help", "clean", "sync"}))
def test_every_target_makes_the_environment_first(target: str) -> None:
    first = make("--dry-run", target).splitlines()[0]
    assert "sync --frozen" in first


def test_every_target_is_phony() -> None:
    assert set(re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)) == TARGETS


@pytest.mark.parametrize("paper", PAPERS)
def test_papers_name_only_targets_and_files_that_exist(paper: str) -> None:
    text = (ROOT / paper).read_text()
    targets = re.findall(r"^make ([a-z-]+)", text, re.MULTILINE) + re.findall(r"`make ([a-z-]+)", text)
    assert set(targets) <= TARGETS
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", text)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_names_each_port_with_its_default_and_variable() -> None:
    readme = (ROOT / "README.md").read_text()
    for entry in fields(Ports):
        assert re.search(rf"127\.0\.0\.1:{entry.default}\b.*`{port_variable(entry.name)}`", readme), entry.name


def test_ci_is_a_script_that_ends_in_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.stat().st_mode & 0o111
    lines = script.read_text().splitlines()
    assert lines[-1].startswith("exec make test "), "the last line printed is pytest's"
    before = [line.strip() for line in lines[:-1]]
    assert "make lint" in before
    assert any(line.startswith("make test-kubernetes ") for line in before)
    for targets in (["lint", "test"], ["test-kubernetes"]):
        assert make("--dry-run", *targets).splitlines()[-1].split()[:4][-1] == "pytest"


def test_the_picture_is_well_formed_and_needs_nothing_from_elsewhere() -> None:
    picture = (ROOT / "docs" / "architecture.svg").read_text()
    root = ElementTree.fromstring(picture)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in picture
    assert re.findall(r"(?:href|src)=|url\((?!#)|<script", picture) == []


def test_pre_commit_runs_local_hooks_only() -> None:
    content = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in content["repos"]] == ["local"]
    assert all(hook["entry"].startswith("uv ") for hook in content["repos"][0]["hooks"])


def test_every_package_has_its_contract_and_its_types() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    packages = [path.parent for path in ROOT.glob("*/*/src/heliograph/*/py.typed")]
    packages += [path.parent for path in ROOT.glob("deploy/local/src/heliograph/*/py.typed")]
    assert {f"heliograph.{package.name}" for package in packages} == set(contracts["root_packages"])
    assert list(ROOT.glob("*/*/src/heliograph/__init__.py")) == []
