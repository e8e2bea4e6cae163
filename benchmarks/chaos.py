"""Does a sweep that is killed at random moments end, after restarts, with the Dataset of one that was left alone?

    python benchmarks/chaos.py [--runs 30] [--cells 600] [--faults 3] [--seed 0]

A run is one store and a command that sweeps into it with two workers. Faults hit it at random moments between its
start and its last chunk: SIGKILL of a worker (it must go on), SIGKILL of the parent (its workers must end), a disk that
fills up (a small tmpfs, where mounting one is allowed; the command must say so and lose nothing), and a chunk cut short
after the parent was killed (it must be set aside and computed again). After a fault that ends the command it is started
again. At the end every Dataset must be identical to the reference; exit status 1 if one is not. Counts are printed.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

SEEDS = 10
KINDS = ("worker", "parent", "disk", "chunk")
DISK = "24m"


def cell(key, *, t):
    """Some milliseconds of work."""
    import jax
    import jax.numpy as jnp

    matrix = jax.random.normal(key, (40, 40)) / 40
    start = jnp.ones(40)
    end = jax.lax.fori_loop(0, 8_000, lambda _, w: w - 0.01 * t * (matrix @ w - start), start)
    return {"end": end, "norm": jnp.linalg.norm(end)}


def compute(store: Path, out: Path, cells: int) -> None:
    """The command that is hit."""
    os.environ["NPROC"] = "1"
    import jax
    import numpy as np

    import lazyscope as ls

    ls.sweep  # noqa: B018, loads the module
    sys.modules["lazyscope.sweep"].CHUNK_SECONDS = 0.1
    axes = {"t": np.linspace(0.1, 1.0, cells // SEEDS)}
    with jax.enable_x64(True), ls.executors.local(2) as pool, ls.Store(store, notify=lambda _: None) as kept:
        ds = ls.sweep(
            cell,
            axes,
            key=jax.random.key(0),
            seeds=SEEDS,
            dims={"end": ("i",)},
            store=kept,
            executor=pool,
            progress=lambda done, *_: print(done, flush=True),
        )
    ds.to_netcdf(out, engine="h5netcdf")


def command(folder: Path, cells: int) -> list[str]:
    """What is typed again after every fault that ends it."""
    return [sys.executable, __file__, "--child", str(folder / "store"), str(folder / "out.nc"), "--cells", str(cells)]


def children(process: int) -> list[int]:
    """Workers of a process: its children that serve one, not the tracker of shared resources."""
    found = []
    for thread in Path(f"/proc/{process}/task").glob("*"):
        with suppress(OSError):  # a thread or a child that ends meanwhile hides none of the others
            found += [int(child) for child in (thread / "children").read_text().split()]
    return [child for child in found if b"spawn_main" in _command_line(child)]


def _command_line(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A tmpfs of a few megabytes at `folder`; False where it cannot be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def fill(path: Path) -> None:
    """Take all that is left of a disk."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def hit(kind: str, folder: Path, cells: int, random, counts: Counter) -> bool:
    """Start the command, strike once, and wait for its end; whether it finished all the same."""
    ballast = folder / "ballast"
    with subprocess.Popen(
        command(folder, cells), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(random.randint(1, 6)):
            if not process.stdout.readline():
                break
        time.sleep(random.uniform(0, 0.05))
        workers = children(process.pid)
        if process.poll() is not None or (kind == "worker" and not workers):  # the last chunk is back, or all is over
            counts["ended before the blow"] += 1
        elif kind == "worker":
            with suppress(ProcessLookupError):
                os.kill(random.choice(workers), signal.SIGKILL)
            counts["workers killed"] += 1
        elif kind == "disk":
            fill(ballast)
            counts["disks filled"] += 1
        else:
            process.kill()
            counts["parents killed"] += 1
        _, error = process.communicate(timeout=300)
    ballast.unlink(missing_ok=True)
    if kind == "disk" and process.returncode != 0:
        assert "the disk is full" in error, error
        counts["runs ended by a full disk"] += 1
    if kind == "worker":
        assert process.returncode == 0, error
    assert not orphans(process.pid), "workers outlive their parent"
    if kind == "chunk" and (chunks := sorted((folder / "store" / "chunks").glob("*.npz"))):
        path = random.choice(chunks)
        path.write_bytes(path.read_bytes()[: random.randrange(path.stat().st_size)])
        counts["chunks cut short"] += 1
    return process.returncode == 0


def orphans(session: int, seconds: float = 10.0) -> bool:
    """Whether a process of the session is still there after some time."""
    for _ in range(int(10 * seconds)):
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


def chaos(runs: int, cells: int, faults: int, seed: int, kinds: Sequence[str] = KINDS) -> tuple[int, Counter]:
    """How many runs ended with another Dataset than the reference, and what happened on the way."""
    import random as randoms

    import xarray as xr

    random, counts, wrong = randoms.Random(seed), Counter(), 0
    with tempfile.TemporaryDirectory() as name, small_disk(Path(name)) as mounted:
        if not mounted:
            kinds = [kind for kind in kinds if kind != "disk"]
            print("no small disk can be mounted here: none is filled")
        place = Path(name)
        subprocess.run(command(place / "reference", cells), check=True, capture_output=True)
        reference = xr.load_dataset(place / "reference" / "out.nc", engine="h5netcdf")
        for number in range(runs):
            folder = place / "run"
            drawn = random.sample(list(kinds), min(faults, len(kinds)))
            drawn.sort(key="worker".__eq__)  # the command survives it and ends: nothing is left to hit
            for kind in drawn:
                hit(kind, folder, cells, random, counts)
            last = subprocess.run(command(folder, cells), check=True, capture_output=True, text=True)
            counts["cells computed by the last start"] += cells - int((last.stdout.split() or [cells])[0])
            same = xr.load_dataset(folder / "out.nc", engine="h5netcdf").identical(reference)
            wrong += not same
            aside = len(list((folder / "store" / "chunks").glob("*.bad*")))
            counts["chunks set aside"] += aside
            print(f"run {number + 1}: {', '.join(drawn)}: {'identical' if same else 'DIFFERENT'}", flush=True)
            subprocess.run(["rm", "-r", str(folder)], check=True)
    return wrong, counts


def main() -> int:
    """Run and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--cells", type=int, default=600)
    parser.add_argument("--faults", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        compute(*asked.child, asked.cells)
        return 0
    wrong, counts = chaos(asked.runs, asked.cells, asked.faults, asked.seed)
    for what, count in counts.items():
        print(f"{count:6d} {what}")
    print(f"{asked.runs - wrong} of {asked.runs} runs ended with the Dataset of one that was left alone")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
