"""Documentation that runs: README commands and snippets, doctests, and links that lead somewhere."""

import contextlib
import doctest
import importlib
import re
import shlex
from pathlib import Path

import pytest

from lazyscope.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = sorted(
    "lazyscope." + ".".join(p.relative_to(ROOT / "src" / "lazyscope").with_suffix("").parts)
    for p in (ROOT / "src" / "lazyscope").rglob("*.py")
    if p.name != "__init__.py"
)


def blocks(language):
    pieces = re.split(r"^```(\w*)\n", README, flags=re.MULTILINE)
    inside = zip(pieces[1::4], pieces[2::4], strict=False)  # fences come in pairs: opening, text, closing, prose
    return [text for name, text in inside if name == language]


@pytest.mark.slow
@pytest.mark.parametrize("snippet", blocks("python"))
def test_readme_snippets_run(snippet, capsys):
    import jax

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(snippet, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed
    if "regime" in printed:
        # The table in the README is the one that is printed, up to the last digits of other machines.
        (shown,) = blocks("text")
        assert [line.split()[:1] for line in shown.splitlines()] == [line.split()[:1] for line in printed.splitlines()]


def test_readme_commands_run(tmp_path, monkeypatch, capsys):
    import lazyscope.cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lazyscope.cli, "_prepare_jax", lambda: None)
    commands = [line for block in blocks("") for line in block.splitlines() if line.startswith("lazyscope ")]
    assert len(commands) >= 3
    for command in commands:
        with contextlib.suppress(SystemExit):
            assert main(shlex.split(command)[1:]) == 0, command
    assert (tmp_path / "lazyscope-out" / "index.html").exists()


def test_make_commands_of_the_readme_are_targets():
    named = set(re.findall(r"^make (\S+)", README, flags=re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"reproduce", "test"} <= named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    import jax

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_lock_names_no_index():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "index-url" not in lock
    assert lock.count("--hash=sha256:") > 100
