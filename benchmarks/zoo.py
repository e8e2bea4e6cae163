"""Which models of PyTorch convert, and rightly: outputs and derivatives of first and second order in float64.

    python benchmarks/zoo.py [--families FAMILY ...] [--models NAME ...] [--limit SECONDS] [--again]
        [--rows FILE] [--table]

Every model is built, converted and compared in a process of its own, under a limit of the processor's time. Rows that
are there are kept: `--again` computes those anew that did not convert, or those of `--models`. `--table` writes
`docs/zoo.md` from them.
Compared are outputs h(w), a transposed product Dh(w)ᵀc and a second-order product ∇²⟨c, h⟩(w)v with PyTorch's own; what
a model computes in float32 whatever its type is computed in float64 on both sides. Where the conversion says that
PyTorch's first derivative is wrong, compared are PyTorch's with contiguous gradients, and differences of the outputs
along random weights.
"""

import argparse
import json
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import jax
import numpy as np
import torch
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

import lazyscope as ls
from lazyscope.adapters.torch.differences import slope

ROWS = Path(__file__).parent / "results" / "zoo.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "zoo.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
SHIPPED = Path(ls.__file__).parent / "cli" / "zoo.json"
TOLERANCE, BY_DIFFERENCES = 1e-8, 1e-6
ERRORS = ("outputs", "transposed", "second")
LIBRARIES = ("torch", "transformers", "timm", "torchvision", "peft")
COMPILING = "/jax/core/compile/backend_compile_duration"


def families() -> dict[str, Callable[[], dict[str, Callable[[], Any]]]]:
    """Models by family; what a family needs is imported when it is asked for."""

    def programs() -> Any:
        from zoo_models.programs import MODELS

        return MODELS

    def hugging_face() -> Any:
        from zoo_models.hugging_face import MODELS

        return MODELS

    def timm() -> Any:
        from zoo_models.image_models import FROM_TIMM

        return FROM_TIMM

    def torchvision() -> Any:
        from zoo_models.image_models import FROM_TORCHVISION

        return FROM_TORCHVISION

    return {"torch.nn": programs, "Hugging Face": hugging_face, "timm": timm, "torchvision": torchvision}


class InFloat64(TorchFunctionMode):
    """float64 wherever a model says float32, so that both sides have the digits to be compared."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = torch.Tensor.double if func is torch.Tensor.float else func
        swapped = {key: _double(value) for key, value in (kwargs or {}).items()}
        return func(*map(_double, args), **swapped)


class Contiguous(TorchFunctionMode):
    """Gradients copied on the way back, to lie in memory in the order of their axes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.requires_grad and result.grad_fn is not None:
            result.register_hook(lambda gradient: gradient.clone(memory_format=torch.contiguous_format))
        return result


def _double(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def examined(build: Callable[[], Any]) -> dict[str, Any]:
    """Convert one model and compare it with PyTorch."""
    times = {"export": 0.0, "compilation": 0.0}
    _timed(times)
    torch.manual_seed(0)
    module, batch, output = build()
    weights = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    row: dict[str, Any] = {"weights": weights}
    torch.set_default_dtype(torch.float64)
    jax.config.update("jax_enable_x64", True)
    module.double().eval()
    batch = jax.tree.map(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, batch)
    with InFloat64():
        began = time.process_time()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                apply, params0 = ls.adapters.from_torch(module, batch, output=output)
            except ValueError as error:
                return row | {"outcome": "refused", "why": str(error), **times}
        row |= {"processor": time.process_time() - began, **times, "described": apply.described}
        # Then the conversion has compared it with differences of first derivatives.
        second = not any("second derivative" in str(warning.message) for warning in told)
        wrong = any("PyTorch's derivative" in str(warning.message) for warning in told)
        with Contiguous() if wrong else nullcontext():
            errors = compared(apply, params0, module, batch, output, second)
        right = max(errors.values()) <= TOLERANCE
        if wrong:
            errors["differences"] = by_differences(apply, params0, module, batch, output)
            right = right and errors["differences"] <= BY_DIFFERENCES
    return row | errors | {"outcome": "right" if right else "wrong"}


def by_differences(apply: Any, params0: Any, module: Any, batch: Any, output: Any) -> float:
    """How far ⟨Dh(w)ᵀc, v⟩ is from differences of the outputs, in units of itself, v as large as the weights."""
    generator = np.random.default_rng(2)
    v = {key: generator.standard_normal(leaf.shape) * np.sqrt(np.mean(leaf**2)) for key, leaf in params0.items()}
    x = jax.tree.map(lambda leaf: leaf.numpy(force=True), batch)
    outputs, along = jax.jvp(lambda p: apply(p, x), (params0,), (v,))
    c = generator.standard_normal(outputs.shape)
    start = {key: torch.tensor(np.asarray(leaf)) for key, leaf in params0.items()}

    def value(t: float) -> float:
        at = {key: start[key] + t * torch.tensor(v[key]) for key in start}
        with torch.no_grad():
            found = taken(lambda *args, **kwargs: functional_call(module, at, args, kwargs), batch, output)
            return float((found * torch.tensor(c)).sum())

    expected = float(np.sum(c * along))
    found, apart = slope(value, 0.1 * BY_DIFFERENCES * abs(expected))
    return (abs(found - expected) + apart) / abs(expected)


def taken(call: Any, batch: Any, output: Any) -> torch.Tensor:
    """The output that is meant, of a call of the module."""
    result = call(**batch) if isinstance(batch, dict) else call(*batch if isinstance(batch, tuple) else [batch])
    return output(result) if callable(output) else getattr(result, output or "logits", result)


def compared(apply: Any, params0: Any, module: Any, batch: Any, output: Any, has_second: bool) -> dict[str, float]:
    """Relative errors, in norm, of outputs, a transposed product and, where PyTorch has it, a second-order product."""
    generator = np.random.default_rng(1)
    v = {key: generator.standard_normal(leaf.shape) for key, leaf in params0.items()}
    torch.backends.mha.set_fastpath_enabled(False)  # fused operations without second derivatives
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        outputs = taken(module, batch, output)
        c = generator.standard_normal(tuple(outputs.shape))
        weights = {key: parameter for key, parameter in module.named_parameters() if key in params0}
        gradient = torch.autograd.grad(
            outputs, list(weights.values()), torch.tensor(c), create_graph=True, allow_unused=True
        )
        along = sum(
            ((g * torch.tensor(v[key])).sum() for key, g in zip(weights, gradient, strict=True) if g is not None)
        )
        second: Any = [None] * len(weights)
        if has_second and getattr(along, "requires_grad", False):
            try:
                second = torch.autograd.grad(along, list(weights.values()), allow_unused=True)
            except RuntimeError:  # PyTorch has none of hardsigmoid; the conversion put relu6 in its place
                has_second = False

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # nearly all time is compilation
    def products(params: Any, x: Any, tangent: Any) -> Any:
        def gradient(params: Any) -> Any:
            values, pull = jax.vjp(lambda p: apply(p, x), params)
            return values, pull(c)[0]

        return jax.jvp(gradient, (params,), (tangent,))

    x = jax.tree.map(lambda leaf: leaf.numpy(force=True), batch)
    (values, pulled), (_, curved) = jax.device_get(products(params0, apply.taken.batch(apply.taken.leaves(x)), v))
    errors = {
        "outputs": error([values], [outputs]),
        "transposed": error([pulled[key] for key in weights], gradient),
    }
    return errors | {"second": error([curved[key] for key in weights], second)} if has_second else errors


def error(found: list[np.ndarray], expected: Any) -> float:
    """‖found − expected‖/‖expected‖; where the expected is 0, ‖found‖."""
    wanted = [np.zeros_like(f) if e is None else e.numpy(force=True) for f, e in zip(found, expected, strict=True)]
    size = float(np.sqrt(sum(np.sum(e**2) for e in wanted)))
    apart = float(np.sqrt(sum(np.sum((f - e) ** 2) for f, e in zip(found, wanted, strict=True))))
    return (apart / size if size > 0 else apart) if np.isfinite(apart) else float("inf")


def _timed(times: dict[str, float]) -> None:
    """Add up what `torch.export.export` takes of the processor and XLA by the clock."""
    export = torch.export.export

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        try:
            return export(*args, **kwargs)
        finally:
            times["export"] += time.process_time() - began

    torch.export.export = timed

    def listen(event: str, seconds: float, **_: Any) -> None:
        times["compilation"] += seconds * (event == COMPILING)

    jax.monitoring.register_event_duration_secs_listener(listen)


def alone(build: Callable[[], Any], limit: float) -> dict[str, Any]:
    """`examined` in a process of its own, which has all that is imported here."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(readable)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 1))
        try:
            row = examined(build)
        except BaseException as problem:
            lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
            row = {"outcome": "broken", "why": f"{type(problem).__name__}: {' '.join(lines)[:300]}"}
        with os.fdopen(writable, "w") as pipe:
            pipe.write(json.dumps(row))
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if text:
        return json.loads(text)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        return {"outcome": "too slow", "why": f"not done in {limit:g} s of the processor"}
    return {"outcome": "broken", "why": "the process died"}


def kept(file: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The latest row of each model."""
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return {(row["family"], row["model"]): row for row in found}


def table(found: dict[tuple[str, str], dict[str, Any]]) -> str:
    """The rows in Markdown, a table a family, with its counts."""
    parts = []
    for family in families():
        of_family = {model: row for (name, model), row in found.items() if name == family}
        right = sum(row["outcome"] == "right" for row in of_family.values())
        parts += [f"## {family}: {right} of {len(of_family)} convert", ""]
        parts += ["| model | weights | seconds | of which export | outcome |", "|---|---:|---:|---:|---|"]
        for model, row in of_family.items():
            clock = "{:.1f}" if "processor" in row else "({:.1f})"  # older rows: by the clock
            total = row.get("processor", row.get("seconds"))
            shown = ["" if spent is None else clock.format(spent) for spent in (total, row.get("export"))]
            worst = max((row.get(key, 0.0) for key in ERRORS), default=0.0)
            outcome = f"right to {worst:.0e}" if row["outcome"] == "right" else _why(row)
            if row["outcome"] == "right" and "second" not in row:
                outcome += ", PyTorch's second derivative missing or wrong: by differences"
            if "differences" in row:
                outcome += f", PyTorch's first wrong: differences of the outputs give JAX's to {row['differences']:.0e}"
            weights = f"{row['weights']:,}" if "weights" in row else ""
            parts.append(f"| {model} | {weights} | {' | '.join(shown)} | {outcome} |")
        parts.append("")
    return "\n".join(parts)


def _why(row: dict[str, Any]) -> str:
    """Nothing for a model that converts, else why not."""
    if row["outcome"] == "right":
        return ""
    return row.get("why") or f"{row['outcome']}, {', '.join(f'{k} to {row[k]:.0e}' for k in ERRORS if k in row)}"


def main() -> int:
    """Examine what has no row yet; returns the number of models that convert wrongly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=list(families()))
    parser.add_argument("--models", nargs="*")
    parser.add_argument("--limit", type=float, default=300)
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.export.export(torch.nn.Identity(), (torch.ones(1),))  # imports what every process needs
    known = kept(asked.rows)
    for family in [] if asked.table else asked.families:
        for model, build in families()[family]().items():
            row = known.get((family, model))
            wanted = (
                model in asked.models if asked.models else row is None or (asked.again and row["outcome"] != "right")
            )
            if not wanted:
                continue
            began = time.perf_counter()
            row = {"family": family, "model": model, **alone(build, asked.limit)}
            with asked.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
            known[family, model] = row
            print(
                f"{family}: {model}: {row['outcome']} {row.get('why', '')} {time.perf_counter() - began:.0f} s",
                flush=True,
            )
    if asked.table:
        page = PAGE.read_text()
        versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
        PAGE.write_text(
            f"{page.split(BEGIN)[0]}{BEGIN}\n\nWith {versions}.\n\n{table(known)}\n{END}{page.split(END)[1]}"
        )
        told = {name: {m: _why(row) for (f, m), row in known.items() if f == name} for name in families()}
        SHIPPED.write_text(json.dumps({"versions": versions, "families": told}, indent=0) + "\n")
        print(PAGE, SHIPPED, sep="\n")
    return sum(row["outcome"] == "wrong" for row in known.values())


if __name__ == "__main__":
    sys.exit(main())
