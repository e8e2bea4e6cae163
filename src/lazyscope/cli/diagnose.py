"""`lazyscope diagnose`: how lazily a model trains."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lazyscope.cli import process, programs
from lazyscope.cli.arguments import InputError
from lazyscope.cli.logs import rows
from lazyscope.cli.process import check_folder, check_seed, say

if TYPE_CHECKING:
    from lazyscope.diagnose import Diagnosis

AGAIN = "nothing is kept, the same command starts anew; --no-kappa or fewer --steps make it shorter"
SCALES_AGAIN = "the scales that are finished are kept in {}, the same command goes on from there"


@dataclass
class Diagnose:
    """Tell how lazily a model trains, why, and what to change.

    Names a built-in case (two-layer-symmetrised, two-layer-plain, two-layer-rich), or FILE.py:OBJECT, where OBJECT is a
    lazyscope.Case, a lazyscope.torch.Case(model, batches) or a function that returns one. This runs FILE.py: only name
    files you trust.

    Or names two folders in Hugging Face's layout, of a model at its start and of its trained weights, and with --batch
    a file with a batch for it (input_ids, attention_mask, labels). No code in them is run.

    A Case can bring its own trainer, train(apply, params0) or train(apply, params0, scale), whose learning rate has to
    follow alpha: times scale.sgd = 1/alpha² for SGD, times scale.adam = 1/alpha for Adam.

    With --out a page as well: one HTML file that opens offline, with pictures, data and the diagnosis beside it.
    `lazyscope report` puts several of these diagnosis.json side by side.

    Example: lazyscope diagnose my_model.py:case --after trained.safetensors --out diagnosis

    Example: lazyscope diagnose start/ checkpoint-500/ --batch batch.safetensors
    """

    case: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CASE")]
    """A built-in name, FILE.py:OBJECT or package.module:OBJECT; or the folder of a model at its start."""
    end: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[AFTER]")] = None
    """Where CASE is a folder, that of the trained weights."""
    batch: Path | None = None
    """Where CASE is a folder, a safetensors or npz file with the entries of a batch, labels among them."""
    held_out: Path | None = None
    """The same of examples that were not trained on."""
    after: Path | None = None
    """Weights of a finished training (safetensors, npz, a folder): judged instead of a training run of ours."""
    ignore: tuple[str, ...] = ()
    """Names in the file of --after that are no parameters; * stands for anything: --ignore '*.running_mean'."""
    out: Path | None = None
    """Folder for a page of the diagnosis, its pictures and data."""
    scales: bool = False
    """On the page also what other output scales would do: from alpha/16 to 16 alpha. Finished ones are kept in
    OUT/scales, and the same command goes on from there."""
    log: Path | None = None
    """What your own run logged, for the page: rows with step, loss, gap, differential (`lazyscope.monitor`), as a JSON
    list, JSON lines, CSV or the trainer_state.json of transformers."""
    json: bool = False
    """Print one JSON object instead of the table, with what each part cost and the compiled programs that are kept."""
    quiet: bool = False
    """Show no progress."""
    no_kappa: tyro.conf.FlagCreatePairsOff[bool] = False
    """Leave kappa out: it decides nothing, and can take longer than all else."""
    steps: int = 1500
    """Steps of our own descent, where the case brings no trainer and --after no weights."""
    seed: int = 0
    """Seed of the searches for norms."""

    def run(self) -> int:
        """Print the diagnosis, and the path of its page where one is asked for."""
        if self.steps < 1:
            raise InputError(f"--steps must be at least 1, got {self.steps}")
        check_seed(self.seed)
        logged = None if self.log is None else rows(self.log)
        if self.out is not None:
            check_folder(self.out)
        folders = self._folders()
        self._check_scales(folders is not None)
        process.prepare_jax()
        programs.keep()
        import jax

        jax.config.update("jax_enable_x64", True)  # our own process; a case in float32 stays in float32
        from lazyscope.cli.interrupts import how_to_go_on
        from lazyscope.cli.loading import on_case
        from lazyscope.cli.terminal import progress_bar

        again = SCALES_AGAIN.format(self.out / "scales") if self.scales and self.out is not None else AGAIN
        with progress_bar("", quiet=self.quiet) as heard, how_to_go_on(lambda: f"{heard}: {again}"):
            if folders is None:
                found, scales = on_case(self.case, lambda case: self._at_scales(case, heard))
            else:
                found, scales = self._of_folders(*folders, heard), ()
        if logged is not None:
            found = _along(found, logged)
        print(self._printed(found))
        if self.out is not None:
            page = found.write_page(self.out, name=self.case, command=self._command(), scales=scales)
            print(page, file=sys.stderr if self.json else sys.stdout)
        return 0

    def _check_scales(self, folders: bool) -> None:
        if self.scales and (folders or self.after is not None):
            raise InputError("--scales trains at each scale, got weights that were trained elsewhere: leave it out")
        if self.scales and self.out is None:
            raise InputError("--scales is for the page, got no --out: add --out DIR")

    def _command(self) -> str:
        """The line that makes the page again."""
        words = ["lazyscope", "diagnose", self.case, *([str(self.end)] if self.end else [])]
        for option, value in (
            ("batch", self.batch),
            ("held-out", self.held_out),
            ("after", self.after),
            ("log", self.log),
        ):
            words += [f"--{option}", str(value)] if value is not None else []
        words += ["--ignore", *self.ignore] if self.ignore else []
        words += ["--scales"] if self.scales else []
        words += ["--no-kappa"] if self.no_kappa else []
        words += ["--steps", str(self.steps), "--seed", str(self.seed), "--out", str(self.out)]
        return shlex.join(words)

    def _folders(self) -> tuple[Path, Path, Path] | None:
        """BEFORE, AFTER and the batch, where folders are meant."""
        before = Path(self.case)
        if self.end is None and self.batch is None and self.held_out is None:
            from lazyscope.cli.loading import BUILT_IN

            if not before.is_dir() or self.case in BUILT_IN:
                return None
        if not before.is_dir() or self.end is None or self.batch is None:
            raise InputError(
                "folders are diagnosed as BEFORE AFTER --batch FILE, got "
                f"{' '.join(map(str, (self.case, *([self.end] if self.end else []))))}"
                f"{'' if before.is_dir() else ', where the first is no folder'}"
                f"{' without --batch' if self.batch is None else ''}: name both, and a file with a batch"
            )
        if self.after is not None:
            raise InputError(
                f"folders are diagnosed as BEFORE AFTER --batch FILE, got --after {self.after}: leave it out"
            )
        return before, self.end, self.batch

    def _of_folders(self, before: Path, after: Path, batch: Path, progress: Any) -> "Diagnosis":
        from lazyscope.cli import streams
        from lazyscope.cli.folders import diagnosed

        try:
            with streams.aside():  # what transformers prints
                options = {
                    "ignore": self.ignore,
                    "seed": self.seed,
                    "with_kappa": not self.no_kappa,
                    "costs": self.json,
                }
                return diagnosed(before, after, batch, self.held_out, progress=progress, **options)
        except (ValueError, FileNotFoundError) as error:
            raise InputError(str(error).splitlines()[0]) from error

    def _at_scales(self, case: Any, progress: Any) -> "tuple[Diagnosis, Sequence[Diagnosis]]":
        """The diagnosis of a case, and with --scales those at other output scales."""
        if not self.scales or self.out is None:
            return self._diagnosed(case, progress), ()
        from lazyscope.cli.loading import in_jax
        from lazyscope.cli.scales import at_scales

        scaled = in_jax(case, progress)  # what cannot be is said before anything is trained
        base = self._diagnosed(case, progress)
        other = replace(self, scales=False, quiet=True, json=False)
        others = at_scales(
            base, lambda alpha: other._diagnosed(replace(scaled, alpha=alpha), progress), self.out / "scales"
        )
        return base, others

    def _printed(self, found: "Diagnosis") -> str:
        from lazyscope.cli import tables
        from lazyscope.diagnose.diagnosis import as_table

        if self.json:
            return json.dumps(found.as_dict() | {"programs": programs.report()}, allow_nan=False)
        kept = programs.sentence()
        return as_table([*found.rows(), *([("programs", kept)] if kept else [])], tables.width())

    def _diagnosed(self, case: Any, progress: Any) -> "Diagnosis":
        import jax

        from lazyscope.cli.loading import weights
        from lazyscope.diagnose import diagnose

        if not hasattr(case, "apply"):  # of PyTorch
            options: dict[str, Any] = {"with_kappa": not self.no_kappa, "costs": self.json, "progress": progress}
            options |= {"trained": self.after, "train": None} if self.after is not None else {}
            self._say_what_comes(case.train is not None and self.after is None, case.trained or self.after, None)
            return case.diagnose(num_steps=self.steps, seed=self.seed, ignore=self.ignore, **options)
        after = None if self.after is None else weights(self.after, case.params0, self.ignore)
        self._say_what_comes(case.train is not None, self.after, case.params0)
        return diagnose(
            case.apply,
            case.params0,
            case.problem,
            params=after,
            train=case.train if after is None else None,
            alpha=case.alpha,
            gates=case.gates,
            num_steps=self.steps,
            key=jax.random.key(self.seed),
            with_kappa=not self.no_kappa,
            costs=self.json,
            progress=progress,
        )

    def _say_what_comes(self, trainer: bool, after: Any, params0: Any) -> None:
        """What each part takes, before the first begins."""
        from lazyscope.criterion import default_budget
        from lazyscope.door import sealed

        if self.quiet or sys.stderr is None or not sys.stderr.isatty():
            return
        most = "" if params0 is None else f" in at most {default_budget(sealed(params0)).products} products"
        parts = [] if self.no_kappa else [f"kappa{most} (--no-kappa leaves it out)"]
        if after is None:
            each = "your trainer twice, on" if trainer else f"{self.steps} steps of descent each (--steps) for"
            parts.append(f"{each} the model and its linearisation")
        say("; then ".join([*parts, "g, j, layers and kernels are measured"]))


def _along(found: "Diagnosis", logged: Any) -> "Diagnosis":
    try:
        return found.along(logged)
    except ValueError as error:
        raise InputError(str(error)) from None
