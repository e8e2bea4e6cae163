"""The import directions of docs/design.md, read from the source."""

import ast
from pathlib import Path

import pytest

from lazyscope.papers.registry import FIGURES

SOURCE = Path(__file__).parents[1] / "src" / "lazyscope"
SCIENCE = (
    "tree",
    "intervals",
    "groups",
    "examples",
    "door",
    "models",
    "passes",
    "vision",
    "problems",
    "linearize",
    "krylov",
    "tangent",
    "differential",
    "criterion",
    "curvature",
    "scaling",
    "dynamics",
    "measures",
    "diagnose",
    "landscape",
)
SHARED = ("progress",)  # by both halves; it imports neither
EDGES = ("adapters", "torch", "datasets")
EXPERIMENTS = ("executors", "sweep", "store", "claims", "figures", "report")
TOP = ("views", "papers", "cli")
# A result may know how to become a Dataset, or a picture, but only when asked.
ASKED = {SOURCE / "diagnose" / "diagnosis.py": {"views"}}
FILES = sorted(SOURCE.rglob("*.py"))


def module_of(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Dotted names imported anywhere in a file, `from a import b` as both a and a.b."""
    return imports_of(ast.parse(path.read_text()))


def imports_of(tree: ast.AST) -> set[str]:
    """The same of a part of a file."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def roots_of(node: ast.stmt) -> set[str]:
    """Packages that one statement imports."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {node.module.split(".")[0]} if isinstance(node, ast.ImportFrom) and node.module else set()


def own(path: Path) -> set[str]:
    """Modules of lazyscope that a file imports, without those that it may import when asked."""
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("lazyscope.")}
    return inside & {*SHARED, *SCIENCE, *EDGES, *EXPERIMENTS, *TOP} - ASKED.get(path, set())


def test_every_module_has_a_place_in_the_layout():
    found = {module_of(path) for path in FILES} - {"__init__"}
    assert found <= {*SHARED, *SCIENCE, *EDGES, *EXPERIMENTS, *TOP}


@pytest.mark.parametrize("path", [p for p in FILES if module_of(p) in SHARED], ids=str)
def test_what_both_halves_share_imports_neither(path):
    assert own(path) <= {module_of(path)}


@pytest.mark.parametrize("path", [p for p in FILES if module_of(p) in SCIENCE], ids=str)
def test_science_imports_only_from_above_and_no_files_or_printing(path):
    allowed = SCIENCE[: SCIENCE.index(module_of(path)) + 1]
    assert own(path) <= {*SHARED, *allowed}
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"rich", "tyro", "matplotlib", "plotly", "pathlib", "os", "subprocess"}
    assert "xarray" not in {alias for node in ast.parse(path.read_text()).body for alias in roots_of(node)}
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    assert not [n for n in calls if isinstance(n.func, ast.Name) and n.func.id in ("print", "open")]


@pytest.mark.parametrize("path", ASKED, ids=str)
def test_what_a_result_becomes_is_imported_inside_functions(path):
    outside = [
        node for node in ast.parse(path.read_text()).body if not isinstance(node, ast.ClassDef | ast.FunctionDef)
    ]
    at_import = set().union(*map(imports_of, outside))
    assert not [name for name in at_import for module in ASKED[path] if name.startswith(f"lazyscope.{module}")]


@pytest.mark.parametrize("path", [p for p in FILES if module_of(p) == "views"], ids=str)
def test_views_know_diagnoses_and_the_page_and_no_paper(path):
    assert own(path) <= {"intervals", "diagnose", "store", "figures", "report", "views"}


@pytest.mark.parametrize("path", [p for p in FILES if module_of(p) in EDGES], ids=str)
def test_edges_need_only_what_defines_a_model_and_import_others_inside_functions(path):
    # In PyTorch's terms is said what all of science and the adapters do.
    more = {*SCIENCE, "adapters"} if module_of(path) == "torch" else {"tree", "examples", "models", "problems"}
    assert own(path) <= {*SHARED, *more, module_of(path)}
    at_import = {alias for node in ast.parse(path.read_text()).body for alias in roots_of(node)}
    own_library = {"torch"} if module_of(path) == "torch" else set()  # a caller of `lazyscope.torch` has it
    if path == SOURCE / "torch" / "trainer.py":  # itself imported only when `Callback` is used
        own_library |= {"transformers"}
    others = {"flax", "equinox", "torch", "safetensors", "transformers", "peft", "lightning"}
    assert not at_import & (others - own_library)


@pytest.mark.parametrize("path", [p for p in FILES if module_of(p) in EXPERIMENTS], ids=str)
def test_experiment_modules_know_nothing_of_neural_networks(path):
    allowed = EXPERIMENTS[: EXPERIMENTS.index(module_of(path)) + 1]
    assert own(path) <= {*SHARED, *allowed}
    if module_of(path) == "sweep":
        assert "store" not in own(path)


@pytest.mark.parametrize("path", [p for p in FILES if module_of(p) == "papers"], ids=str)
def test_no_figure_is_made_of_another(path):
    own = ".".join(path.relative_to(SOURCE / "papers").with_suffix("").parts)
    others = {entry.figure.partition(":")[0] for entry in FIGURES.values()} - {own}
    assert not imports(path) & {f"lazyscope.papers.{other}" for other in others}


@pytest.mark.parametrize("path", [p for p in FILES if module_of(p) not in ("torch", "cli")], ids=str)
def test_nothing_else_needs_what_is_said_in_terms_of_pytorch(path):
    assert "torch" not in own(path)


@pytest.mark.parametrize("path", [p for p in FILES if module_of(p) != "cli"], ids=str)
def test_only_the_command_line_imports_papers(path):
    if module_of(path) != "papers":
        assert not {"papers", "cli"} & own(path)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_public_jax_only(path):
    private = [n for n in imports(path) if n.startswith(("jax._src", "jax.core", "jax.interpreters"))]
    assert not private


def test_no_import_cycles():
    graph = {module: set() for module in {module_of(p) for p in FILES}}
    for path in FILES:
        if path.name != "__init__.py" or path.parent != SOURCE:
            graph[module_of(path)] |= own(path) - {module_of(path)}
    order: list[str] = []
    while graph:
        free = [m for m, needs in graph.items() if not needs - set(order)]
        assert free, f"cycle among {sorted(graph)}"
        order += free
        graph = {m: needs for m, needs in graph.items() if m not in free}
