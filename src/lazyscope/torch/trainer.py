"""The measures of `Monitor` in the logs of a `transformers.Trainer`."""

import inspect
import warnings
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback  # pyright: ignore[reportMissingImports]

from lazyscope.groups import Groups
from lazyscope.torch.monitoring import Monitor, checked_every

START = "_lazyscope_start.safetensors"
"""The start of a run, in its output folder; what begins with an underscore is not pushed to a hub."""


class Callback(TrainerCallback):
    """A `transformers.TrainerCallback` that logs how lazily a run trains, from its first step to its last.

        trainer = Trainer(model, args, train_dataset=..., callbacks=[lst.Callback(batch, every=100)])

    The weights at the start of training are w0. After the first step, every `every` steps and after the last one, what
    `Monitor` measures on `batch` goes to `trainer.log`: it stands in `trainer.state.log_history` and in everything that
    `report_to` names, as `lazyscope/gap`, `lazyscope/differential`, `lazyscope/movement/GROUP` and so on. (Transformers
    hands its callbacks no trainer, and what they add to `logs` in `on_log` reaches neither: the trainer is found among
    the callers of `on_train_begin`.) What is measured are logits: neither labels nor label smoothing matter.

    Only the first process measures. The run itself is not touched: its weights are those of the same run without the
    callback, bit for bit. `output`, `groups`, `seed` and the costs are those of `Monitor`. With `bf16=True` or
    `fp16=True` the float32 weights are measured without autocast.

    Where checkpoints are saved, w0 is kept as `_lazyscope_start.safetensors` in the output folder, of the size of the
    trainable weights, and a run that is resumed is measured from there; without that file a warning says that it is
    measured from where it was resumed.
    """

    def __init__(
        self, batch: Any, every: int = 100, *, output: Any = None, groups: Groups = None, seed: int = 0
    ) -> None:
        self.every = checked_every(every)
        self._batch, self._options = batch, {"output": output, "groups": groups, "seed": seed}
        self._monitor: Monitor | None = None
        self._trainer: Any = None
        self._last = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Keep w0, or find that of the run which is resumed."""
        if not state.is_world_process_zero:
            return
        self._trainer, self._last = _calling(), state.global_step
        self._monitor = Monitor(model, self._batch, **self._options)
        path = Path(args.output_dir) / START
        if state.global_step:
            _resume(self._monitor, path, state.global_step)
        elif args.save_strategy != "no":
            _keep(self._monitor, path)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, where it is time to."""
        if state.global_step == 1 or state.global_step % self.every == 0 or control.should_training_stop:
            self._measure(state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Measure at the end of a run that was stopped between steps, before its best weights are loaded."""
        if logs and "train_runtime" in logs:
            self._measure(state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let go of the trainer and of the model."""
        self._trainer = self._monitor = None

    def _measure(self, state: Any, control: Any) -> None:
        if self._monitor is None or state.global_step == self._last:
            return
        self._last = state.global_step
        found = self._monitor.measure()
        # To log is to have logged: the trainer's own line of this step would be left out.
        due = control.should_log
        self._trainer.log(found)
        control.should_log = due


def _calling() -> Any:
    """The trainer that calls."""
    frame = inspect.currentframe()
    while frame is not None:
        if isinstance(trainer := frame.f_locals.get("self"), Trainer):
            return trainer
        frame = frame.f_back
    raise ValueError("Callback must be called by a transformers.Trainer, got none: use lazyscope.torch.Monitor")


def _keep(monitor: Monitor, path: Path) -> None:
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(monitor.start), path, metadata={"format": "pt"})


def _resume(monitor: Monitor, path: Path, step: int) -> None:
    if not path.is_file():
        warnings.warn(
            f"the weights that this run started from are not in {path}: laziness is measured from step {step}",
            stacklevel=2,
        )
        return
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        monitor.restart(load_file(path))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} must have the weights that this run started from, got: {error}: remove it") from error
