"""Would the tests notice a slip? Small changes of the source, each put to the tests of its module.

    python benchmarks/mutants.py --count 200 --seed 0 [--only measures krylov] [--processes 2] [--out mutants.jsonl]
    python benchmarks/mutants.py --slow --out mutants.jsonl    # then: what survived, put to the slow tests

A mutant is one change of one place: a comparison or an arithmetic operator swapped, an integer off by one, a `not`, an
`abs` or a `sqrt` dropped, a condition negated, `min` for `max`. `--count` of them are drawn from all places of the
modules in `TESTS`. Each is written into a copy of the tree and the fast tests of its module run there until one fails:
then it is killed; so is one that does not import or takes longer than `--timeout` (make sure first that the tests of
the tree as it is pass well within that). Some survivors are equivalent (a bound that is never met, an order that does
not matter): look at each. Finished ones are read from `--out` and not run again.
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path("src/lazyscope")

TESTS = {
    "tree": ["test_tree", "test_units"],
    "measures": ["test_measures", "test_units"],
    "scaling": ["test_scaling", "test_criterion", "test_units"],
    "claims": ["test_claims"],
    "linearize": ["test_linearize"],
    "krylov": ["test_krylov", "test_units"],
    "criterion": ["test_criterion", "test_units", "test_passes"],
    "tangent": ["test_tangent", "test_weights", "test_units"],
    "diagnose/regime": ["test_diagnose"],
    "problems": ["test_problems", "test_diagnose"],
    "models": ["test_models", "test_mlp"],
    "adapters": ["test_adapters", "test_torch"],
    "store": ["test_store", "test_store_cli"],
    "differential": ["test_differential"],
    "adapters/torch": ["test_torch", "test_torch_kinks"],
}
# Those whose tests need PyTorch are slow ones.
SLOW = {"adapters/torch"}

_COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_NAMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any"}
_DROPPED = {"abs", "sqrt"}


def changed(node: ast.AST) -> ast.AST | None:
    """The node with its slip, or None where there is none to make."""
    match node:
        case ast.Compare(left, [operator, *others], comparators) if type(operator) in _COMPARISONS:
            return ast.Compare(left, [_COMPARISONS[type(operator)](), *others], comparators)
        case ast.BinOp(left, operator, right) if type(operator) in _OPERATORS and not _is_type(node):
            return ast.BinOp(left, _OPERATORS[type(operator)](), right)
        case ast.BoolOp(operator, values):
            return ast.BoolOp(ast.And() if isinstance(operator, ast.Or) else ast.Or(), values)
        case ast.UnaryOp(ast.Not() | ast.Invert() | ast.USub(), operand) if not isinstance(operand, ast.Constant):
            return operand
        case ast.Constant(int() as value) if not isinstance(value, bool):
            return ast.Constant(value + 1)
        case ast.IfExp(test, body, orelse):
            return ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Call(function, [argument]) if _name(function) in _DROPPED:
            return argument
        case ast.Name(name, context) if name in _NAMES and isinstance(context, ast.Load):
            return ast.Name(_NAMES[name], context)
        case ast.Attribute(value, name, context) if name in _NAMES:
            return ast.Attribute(value, _NAMES[name], context)
    return None


def _is_type(node: ast.BinOp) -> bool:
    """Whether `a | b` is a union of types, as in annotations and `isinstance`."""
    names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    nothing = any(isinstance(inner, ast.Constant) and inner.value is None for inner in ast.walk(node))
    return isinstance(node.op, ast.BitOr) and (nothing or bool(names & {"int", "float", "complex", "list", "Array"}))


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """What is computed: no annotations, no raised messages, no patterns of imports."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            skipped = name in {"annotation", "returns"} or isinstance(child, ast.Raise | ast.JoinedStr | ast.Import)
            if isinstance(child, ast.AST) and not skipped:
                yield child
                yield from _code(child)


def mutants(path: Path) -> list[tuple[str, int, str, str]]:
    """File, line, the change in words and the whole changed text, for each place in a file."""
    text = (ROOT / path).read_text()
    lines = [line.encode() for line in text.splitlines(keepends=True)]
    found = []
    nodes = list(_code(ast.parse(text)))
    slips = [(node, changed(node)) for node in nodes]
    slips += [(node.test, ast.UnaryOp(ast.Not(), node.test)) for node in nodes if isinstance(node, ast.If | ast.While)]
    for node, other in slips:
        if other is None:
            continue
        starts = [sum(map(len, lines[: line - 1])) for line in (node.lineno, node.end_lineno)]  # type: ignore[attr-defined]
        start, stop = starts[0] + node.col_offset, starts[1] + node.end_col_offset  # type: ignore[attr-defined]
        code = text.encode()
        # In brackets, so that an operator keeps its operands; the rest of the file stays as it is.
        after = f"({ast.unparse(ast.fix_missing_locations(other))})"
        words = f"{ast.unparse(node)} -> {after[1:-1]}"
        mutated = (code[:start] + after.encode() + code[stop:]).decode()
        try:
            ast.parse(mutated)
        except SyntaxError:
            continue
        found.append((str(path), node.lineno, words, mutated))  # type: ignore[attr-defined]
    return found


def files(module: str) -> list[Path]:
    if (ROOT / SOURCE / f"{module}.py").exists():
        return [SOURCE / f"{module}.py"]
    return sorted(path.relative_to(ROOT) for path in (ROOT / SOURCE / module).glob("*.py"))


def outcome(tree: Path, path: str, mutated: str, tests: list[str], marked: str, timeout: float) -> str:
    """`killed`, `timeout` (killed, too) or `survived`, by the tests in a copy of the tree."""
    whole = (tree / path).read_text()
    (tree / path).write_text(mutated)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "0",
        "-m",
        marked,
        "-p",
        "no:cacheprovider",
        *tests,
    ]
    environment = os.environ | {
        "PYTHONPATH": str(tree / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NPROC": "1",
        # Nearly every program is that of the tree as it is: compiled once for all mutants, found by what it computes.
        "JAX_COMPILATION_CACHE_DIR": str(tree.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    try:
        run = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        (tree / path).write_text(whole)
    if run.returncode == 5:
        raise RuntimeError(f"no test was collected from {', '.join(tests)}: mend TESTS")
    return "killed" if run.returncode else "survived"


def sample(modules: list[str], count: int, seed: int) -> list[tuple[str, tuple[str, int, str, str]]]:
    places = [(module, mutant) for module in modules for path in files(module) for mutant in mutants(path)]
    return random.Random(seed).sample(places, min(count, len(places)))


def copies(number: int, folder: str) -> SimpleQueue[Path]:
    free: SimpleQueue[Path] = SimpleQueue()
    for i in range(number):
        tree = Path(folder) / str(i)
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".venv", ".git", "__pycache__", ".*_cache"))
        free.put(tree)
    return free


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(TESTS), default=[m for m in TESTS if files(m)])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds a mutant")
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    parser.add_argument("--slow", action="store_true", help="judge the survivors in --out by the slow tests")
    given = parser.parse_args()

    known = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    done = {(row["file"], row["line"], row["change"]): row["outcome"] for row in known}
    results: list[str] = []

    with tempfile.TemporaryDirectory() as folder, given.out.open("a") as out:
        free = copies(given.processes, folder)

        def judge(drawn: tuple[str, tuple[str, int, str, str]]) -> None:
            module, (path, line, change, mutated) = drawn
            found = done.get((path, line, change))
            if found is None or (given.slow and found == "survived"):
                tree = free.get()
                try:
                    tests = [f"tests/{name}.py" for name in TESTS[module] if (tree / f"tests/{name}.py").exists()]
                    marked = "slow" if given.slow or module in SLOW else "not slow"
                    found = outcome(tree, path, mutated, tests, marked, given.timeout)
                finally:
                    free.put(tree)
                out.write(json.dumps({"file": path, "line": line, "change": change, "outcome": found}) + "\n")
                out.flush()
            results.append(found)
            print(f"{found:9} {path}:{line}: {change}", flush=True)

        with ThreadPoolExecutor(given.processes) as pool:
            list(pool.map(judge, sample(given.only, given.count, given.seed)))
    survived = results.count("survived")
    print(f"{len(results) - survived} of {len(results)} killed, {survived} survived")


if __name__ == "__main__":
    main()
