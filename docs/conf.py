"""How the site is built: `make docs`.

The reference is written from the package's own table of public names, and every tutorial is run and its output shown,
so that neither can fall behind the code.
"""

import contextlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import lazyscope
import lazyscope.torch

HERE = Path(__file__).parent
GENERATED = HERE / "_generated"
EXAMPLES = HERE.parent / "examples"
TUTORIALS = (
    "flax_model",
    "torch_model",
    "choose_alpha",
    "monitoring",
    "landscape_of_a_net",
    "local_sweep",
    "fine_tuning",
)

project = "lazyscope"
author = "The lazyscope developers"
version = release = lazyscope.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"lazyscope {version}"
exclude_patterns = ["_build"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
default_role = "code"
suppress_warnings = ["myst.xref_missing"]  # links to source files outside the site


def public_names() -> dict[str, object]:
    """Every public object by its dotted name: those of the package and of its public submodules."""
    found: dict[str, object] = {}
    for name in lazyscope.__all__:
        thing = getattr(lazyscope, name)
        if inspect.ismodule(thing):
            own = [n for n, v in vars(thing).items() if getattr(v, "__module__", "") == thing.__name__ and n[0] != "_"]
            found |= {f"{thing.__name__}.{inner}": getattr(thing, inner) for inner in getattr(thing, "__all__", own)}
        elif name != "__version__":
            found[f"{thing.__module__}.{name}"] = thing
    for name in lazyscope.torch.__all__:
        with contextlib.suppress(ImportError):  # of a library that is not there
            thing = getattr(lazyscope.torch, name)
            if thing.__module__.startswith("lazyscope.torch"):
                found[f"lazyscope.torch.{name}"] = thing
    return dict(sorted(found.items(), key=lambda pair: pair[0].split(".")[1]))


def write_reference(_app: object) -> None:
    """One entry a public name, in the order of the modules."""
    GENERATED.mkdir(exist_ok=True)
    lines = ["Reference", "=========", "", "Every public name, by the module that it lives in.", ""]
    module = ""
    for dotted, thing in public_names().items():
        home, name = dotted.rsplit(".", 1)
        shown = home.removeprefix("lazyscope.").split(".")[0]
        if shown != module:
            module = shown
            lines += [module, "-" * len(module), ""]
        kind = "class" if inspect.isclass(thing) else "function" if callable(thing) else "data"
        lines += [f".. auto{kind}:: {home}.{name}", "   :no-index:", ""]
    (GENERATED / "reference.rst").write_text("\n".join(lines))


def run_tutorials(_app: object) -> None:
    """Run every tutorial in a folder of its own and keep what it prints."""
    GENERATED.mkdir(exist_ok=True)
    for name in TUTORIALS:
        script = EXAMPLES / f"{name}.py"
        output = GENERATED / f"{name}.txt"
        if output.is_file() and output.stat().st_mtime > script.stat().st_mtime:
            continue
        done = subprocess.run([sys.executable, str(script)], cwd=GENERATED, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{script.name} must run, got: {done.stderr.strip().splitlines()[-1]}")
        output.write_text(done.stdout + done.stderr)


def as_rst(_app: object, _what: str, _name: str, _thing: object, _options: object, lines: list[str]) -> None:
    """Docstrings are plain text: indented formulas become literal blocks, and no character is markup but backticks."""
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip())
    written: list[str] = []
    for paragraph in paragraphs:
        if paragraph.startswith((" ", ">>>")):
            written += ["::", "", *(f"    {line}" for line in paragraph.splitlines()), ""]
        else:
            parts = re.split(r"(`[^`]+`)", paragraph)
            text = "".join(
                f"`{part}`" if part.startswith("`") else re.sub(r"([*|_\\<>])", r"\\\1", part) for part in parts
            )
            written += [*(line.strip() for line in text.splitlines()), ""]
    lines[:] = written


def setup(app: object) -> None:
    """What happens before and while pages are read."""
    app.connect("builder-inited", write_reference)  # type: ignore[attr-defined]
    app.connect("builder-inited", run_tutorials)  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", as_rst)  # type: ignore[attr-defined]
