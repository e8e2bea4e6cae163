"""The page `docs/operators.md`, from the record of what PyTorch's samples gave."""

from pathlib import Path

import torch  # pyright: ignore[reportMissingImports]

from lazyscope.adapters.torch.graph import rule
from lazyscope.adapters.torch.operations import KINDS

PAGE = Path(__file__).parents[1] / "docs" / "operators.md"
# Why a core operation has no rule, by a part of its name.
ABSENT = {
    "backward": "of graphs of derivatives, which JAX takes itself",
    "rand": "draws numbers",
    "dropout": "draws numbers",
    "reflection_pad": "`torch.export` makes indexing of it",
    "replication_pad": "`torch.export` makes indexing of it",
    "sym_": "sizes are numbers in the graph",
    "nonzero": "its shape depends on values",
    "_local_scalar_dense": "a Python number that depends on values",
    "_native_batch_norm_legit.default": "of training, which mixes examples",
    "resize_": "of graphs that write into memory, which exported ones do not",
    ".out": "of graphs that write into memory, which exported ones do not",
}

# What no sample of PyTorch's comes down to, and why.
ELSEWHERE = {
    **dict.fromkeys(
        ("_embedding_bag", "adaptive_avg_pool1d", "avg_pool1d", "col2im", "fill", "select_scatter"),
        "PyTorch decomposes it, core operation as it is",
    ),
    **dict.fromkeys(("_neg_view", "lift_fresh_copy"), "its operators have no samples"),
    **dict.fromkeys(("_grouped_mm", "transformers.grouped_mm_fallback.default"), "of mixtures of experts, in float32"),
    **dict.fromkeys(("empty_strided", "new_empty_strided"), "uninitialised numbers"),
    "cond": "control flow",
}


def core():
    """The core ATen operations as PyTorch tags them."""
    names = {name.removeprefix("aten::") for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")}
    packets = [getattr(torch.ops.aten, name) for name in sorted({name.split(".")[0] for name in names})]
    every = (getattr(packet, overload) for packet in packets for overload in packet.overloads())
    return sorted(str(operation).removeprefix("aten.") for operation in every if torch.Tag.core in operation.tags)


def without_rule():
    return {name: next((why for part, why in ABSENT.items() if part in name), "") for name in core() if not rule(name)}


def page(record, operators):
    """The whole page as text, from the record so far of some of all operators."""
    operations, absent = core(), without_rule()
    run = {name: row for name, row in record.items() if not row["refused"]}
    counts = {name: sum(name in row["operations"] for row in run.values()) for name in operations}
    lines = [
        "# Operations of PyTorch",
        "",
        "A traced module consists of ATen operations, and each has a rule in JAX (`adapters/torch/operations/`).",
        "The sample inputs that PyTorch ships for its operators go through these rules, in float64, under `vmap`:",
        "values agree to 1e-9, derivatives to 1e-8, second-order products to 1e-7, or to 1e-5 with differences of",
        "derivatives where PyTorch has no second ones (`tests/test_torch_samples.py`).",
        "",
        f"- {len(operations) - len(absent)} of {len(operations)} core ATen operations have a rule; the other "
        f"{len(absent)} stand below.",
        f"- {len(record)} of {len(operators)} operators of PyTorch were examined: {len(run)} give what PyTorch gives "
        f"on {sum(row['samples'] for row in run.values())} samples, {len(record) - len(run)} are refused, and none "
        "gives anything else.",
        f"- {sum(len(kind) for kind in KINDS.values())} rules in {len(KINDS)} files.",
        "",
        "## Core ATen operations",
        "",
        "| operation | operators whose samples run it |",
        "|---|---|",
        *(f"| `{name}` | {absent[name] if name in absent else counts[name]} |" for name in operations),
        "",
        "## Operators that give what PyTorch gives",
        "",
        ", ".join(f"`{name}` {row['samples']}" for name, row in sorted(run.items())) + ".",
        "",
        "## Operators that are refused",
        "",
        "| operator | why |",
        "|---|---|",
        *(f"| `{name}` | {reason(row['refused'])} |" for name, row in sorted(record.items()) if row["refused"]),
        "",
    ]
    return "\n".join(lines)


def reason(text):
    """What was said, without what changes from run to run and what a table cannot hold."""
    text = text.removeprefix("from_torch has no JAX rule for ").removesuffix(
        " in sample: replace it by other operations, or write that part in JAX"
    )
    return (
        text.split("(")[0].replace("|", "/").replace("<", "‹").strip() if "unbacked" in text else text.replace("|", "/")
    )
