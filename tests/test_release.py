"""What is published works outside of the checkout: wheel and sdist, built as they are released."""

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import lazyscope

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(out)], cwd=ROOT, check=True)
    return out


def test_the_wheel_is_typed_and_brings_the_page_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert f"lazyscope-{lazyscope.__version__}-" in wheel.name
    for name in ("py.typed", "templates/page.html", "templates/page.css", "templates/page.js"):
        assert f"lazyscope/{name}" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lazyscope"}


def test_the_sdist_brings_tests_examples_and_docs(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {"/".join(member.name.split("/")[1:]) for member in archive}
    assert {"tests/test_release.py", "examples/flax_model.py", "docs/index.md", "CITATION.cff", "README.md"} <= names
    assert not [name for name in names if name.startswith(("lazyscope-out", ".venv"))]


def test_the_wheel_runs_outside_of_the_checkout(built, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    (wheel,) = built.glob("*.whl")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    # Dependencies are those of this environment, after the wheel in the path; its own lazyscope is this checkout's.
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    where = [python, "-c", "import lazyscope; print(lazyscope.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(site))
    figure = [tmp_path / "env" / "bin" / "lazyscope", "reproduce", "note-fig4", "--size", "tiny", "--quiet"]
    done = subprocess.run(figure, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (tmp_path / done.stdout.strip()).is_file()
    tutorial = [python, str(ROOT / "examples" / "flax_model.py")]
    done = subprocess.run(tutorial, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("regime")
