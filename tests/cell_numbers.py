"""The numbers of every cell at tiny size, and how closely they are to come again.

`cell_numbers.json` has, by figure, function and result: how many entries are finite, their mean, their mean size, the
geometric mean of their sizes (zeros left out), and within how much, relative to the size, the first two and the last
are promised. That is 1e-9, or ten times what two runs differ by: one as users run, one without XLA's optimisation and
vector instructions. A descent whose gates flip amplifies rounding, and a loss that has reached it is nothing else.

    python tests/cell_numbers.py [FIGURE ...]

measures both and writes the record anew. It refuses numbers that moved while the version of their function did not.

    python tests/cell_numbers.py --here [FIGURE ...]

is for another machine (OpenBLAS takes its kernels by the processor, `OPENBLAS_CORETYPE`), and a tree that keeps its
promises on that where they were made: the numbers stay, and are promised within ten times what this machine differs
from them by.
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lazyscope.papers.registry import FIGURES
from lazyscope.papers.reproduce import reproduce
from lazyscope.store import Store, chunks
from lazyscope.store.folder import chunk_files

RECORD = Path(__file__).with_name("cell_numbers.json")
PROMISED = 1e-9
OTHERWISE = "--xla_cpu_max_isa=SSE4_2 --xla_backend_optimization_level=0"  # another machine, as far as one can play it


class Numbers(NamedTuple):
    """What is known of the entries of one result."""

    finite: int
    mean: float
    size: float
    geometric: float
    within: float = PROMISED
    geometric_within: float = PROMISED

    def apart(self, other: "Numbers") -> tuple[float, float]:
        """How far means, and geometric means, are from those of `other`, relative to its sizes."""
        if self.finite != other.finite:
            return math.inf, math.inf
        mean = max(abs(self.mean - other.mean), abs(self.size - other.size))
        return mean / (other.size or 1.0), abs(self.geometric - other.geometric) / (other.geometric or 1.0)

    def keeps(self, promised: "Numbers") -> bool:
        """Whether these are the numbers that were promised."""
        mean, geometric = self.apart(promised)
        return mean <= promised.within and geometric <= promised.geometric_within


class Cells(NamedTuple):
    """The results of a function at one version."""

    version: int
    results: dict[str, Numbers]


def numbers(entries):
    sizes = np.abs(entries := entries[np.isfinite(entries)])
    if not sizes.any():
        return Numbers(entries.size, 0.0, 0.0, 0.0)
    return Numbers(entries.size, *map(float, (entries.mean(), sizes.mean(), np.exp(np.log(sizes[sizes > 0]).mean()))))


def kept(store):
    """By function: the numbers of all its cells in a store."""
    versions, entries = {}, defaultdict(lambda: defaultdict(list))
    for path in chunk_files(store):
        header, arrays = chunks.read(path)
        function = header.program.description["function"]
        versions[function] = header.program.description["version"]
        for name, rows in arrays.items():
            entries[function][name].append(np.asarray(rows, float).ravel())
    return {
        function: Cells(versions[function], {name: numbers(np.concatenate(rows)) for name, rows in results.items()})
        for function, results in entries.items()
    }


def recorded():
    """By figure: what its functions promise."""
    return {
        figure: {
            function: Cells(cells["version"], {name: Numbers(*values) for name, values in cells["results"].items()})
            for function, cells in functions.items()
        }
        for figure, functions in json.loads(RECORD.read_text()).items()
    }


def broken(found, promised):
    """The promises that what was found does not keep, in words."""
    lines = [] if set(found) == set(promised) else [f"cells of {sorted(found)}, promised are {sorted(promised)}"]
    for function in set(found) & set(promised):
        (version, results), (wanted, old) = found[function], promised[function]
        if (version, set(results)) != (wanted, set(old)):
            lines.append(f"{function} v{version} gives {sorted(results)}, v{wanted} promised {sorted(old)}")
            continue
        lines += [
            f"{name} of {function} v{version} moved by {max(now.apart(old[name])):.1e}: {now}, promised {old[name]}"
            for name, now in results.items()
            if not now.keeps(old[name])
        ]
    return lines


def measured(figure, flags=""):
    """The numbers of a figure from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        told = {
            "NPROC": "1",
            "LAZYSCOPE_CACHE": "off",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
        }
        subprocess.run([sys.executable, __file__, "--into", folder, figure], env=os.environ | told, check=True)
        return kept(Path(folder) / "store")


def promise(found, otherwise, before):
    """What is promised from now on; ValueError where that breaks a promise that the same version gave."""
    same = {name: old for name, old in before.items() if name in found and found[name].version == old.version}
    if lines := broken({name: found[name] for name in same}, same):
        raise ValueError(f"numbers must not move while versions stay, got {lines[0]}: raise the version")
    promised = {}
    for function, (version, results) in sorted(found.items()):
        apart = {name: now.apart(otherwise[function].results[name]) for name, now in results.items()}
        close = {name: tuple(map(within, parts)) for name, parts in apart.items()}
        promised[function] = Cells(version, {name: Numbers(*results[name][:4], *close[name]) for name in sorted(close)})
    return promised


def widened(found, promised):
    """The same promises, as wide as what was found on another machine asks for."""

    def wider(now, old):
        mean, geometric = map(within, now.apart(old))
        return old._replace(within=max(old.within, mean), geometric_within=max(old.geometric_within, geometric))

    return {
        function: Cells(version, {name: wider(found[function].results[name], old) for name, old in results.items()})
        for function, (version, results) in promised.items()
    }


def within(apart):
    """Ten times a difference, as a power of ten, at least 1e-9; nothing is promised of runs that diverge."""
    if not 10 * apart > PROMISED:
        return PROMISED
    return float(f"1e{math.ceil(math.log10(10 * apart))}") if apart < 1 else math.inf


def write(record):
    """One line a result."""
    plain = {
        figure: {function: cells._asdict() for function, cells in record[figure].items()}
        for figure in FIGURES
        if figure in record
    }
    text = json.dumps(plain, indent=1)
    RECORD.write_text(re.sub(r"\[\s+([^]]*?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text) + "\n")


def main(figures, *, here=False):
    record = recorded() if RECORD.is_file() else {}
    for figure in figures:
        if here:
            record[figure] = widened(measured(figure), record[figure])
        else:
            record[figure] = promise(measured(figure), measured(figure, OTHERWISE), record.get(figure, {}))
        write(record)
        print(figure, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--into"]:
        with Store(Path(sys.argv[2]) / "store") as store:
            reproduce(sys.argv[3], size="tiny", seeds=None, out=Path(sys.argv[2]), store=store)
    else:
        names = [word for word in sys.argv[1:] if word != "--here"]
        main(names or list(FIGURES), here="--here" in sys.argv)
