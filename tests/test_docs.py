"""Documentation that runs: README commands and snippets, doctests, and links that lead somewhere."""

import contextlib
import doctest
import importlib
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import fresh
import pytest

from lazyscope.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
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
def test_readme_snippets_run_as_a_user_runs_them(snippet, tmp_path):
    if "torch" in snippet:
        pytest.importorskip("torch")
        assert len(snippet.splitlines()) <= 8
        assert "jax" not in snippet
    (tmp_path / "snippet.py").write_text(snippet)
    done = fresh.python("snippet.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert printed
    if "lst." in snippet:
        # The table in the README is the one that is printed, up to the last digits of other machines.
        (shown,) = blocks("text")
        assert [line.split()[:1] for line in shown.splitlines()] == [line.split()[:1] for line in printed.splitlines()]


@pytest.mark.slow
def test_readme_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)
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
        if not target.startswith("_generated/"):  # made when the site is built, which tells when one is missing
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    import jax

    if name.startswith("lazyscope.torch"):
        pytest.importorskip("torch")
        pytest.importorskip({"trainer": "transformers", "lightning": "lightning"}.get(name.split(".")[-1], "torch"))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_figure_of_the_guide_runs_and_its_claim_holds():
    import jax

    from lazyscope.claims import evaluate
    from lazyscope.papers.figure import Trials

    guide = (ROOT / "docs" / "extending.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    module = types.ModuleType("guide")
    sys.modules["guide"] = module  # dataclasses look their module up
    exec(compile(source, "extending.md", "exec"), vars(module))
    figure = module.KERNEL
    tiny = figure.sizes["tiny"]
    dataset = figure.compute(tiny.settings, Trials(jax.random.key(0), tiny.seeds))
    (finding,) = [evaluate(claim, dataset) for claim in figure.claims]
    assert finding.outcome == figure.claims[0].expected["tiny"]
    assert figure.draw(dataset).axes
    assert len(figure.numbers(dataset)) == 4
    del sys.modules["guide"]


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_names_everything_public(tmp_path):
    pytest.importorskip("sphinx", reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "_generated" / "reference.html").read_text()
    import lazyscope

    missing = [name for name in lazyscope._HOMES if not re.search(rf'<span class="pre">{name}</span>', reference)]
    assert missing == []


def test_the_lock_names_no_index():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "index-url" not in lock
    assert lock.count("--hash=sha256:") > 100
