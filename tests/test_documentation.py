"""What the documents name exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *REPOSITORY.glob("docs/*.md")]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_local_link_of_a_page_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_shows_is_known(page):
    from typer.testing import CliRunner

    from storm_clinic.cli.main import app

    shown = re.findall(r"storm-clinic ([a-z]+(?: [a-z-]+)?)", page.read_text(encoding="utf-8"))
    groups = {group.name for group in app.registered_groups}
    for words in {tuple(text.split()) for text in shown}:
        command = list(words) if words[0] in groups else [words[0]]
        result = CliRunner().invoke(app, [*command, "--help"])
        assert result.exit_code == 0, f"{page.name} shows storm-clinic {' '.join(command)}"


def test_constraints_hold_no_address_and_no_hash():
    text = (REPOSITORY / "constraints.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", line) for line in lines)


def test_every_declared_dependency_is_pinned_within_its_range():
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + [
        item for extra in project["optional-dependencies"].values() for item in extra
    ]
    pinned = dict(
        line.lower().replace("_", "-").split("==")
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    for item in map(Requirement, declared):
        if item.name == "storm-clinic":
            continue
        name = item.name.lower().replace("_", "-")
        assert name in pinned, f"{name} is not in constraints.txt"
        assert item.specifier.contains(pinned[name], prereleases=True)


def test_the_example_of_the_readme_names_only_what_is_public():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    names = sorted(set(re.findall(r"\bsc\.([A-Za-z_]+)", text)))
    script = f"import storm_clinic as sc; [getattr(sc, n) for n in {names}]"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)
