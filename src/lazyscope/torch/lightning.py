"""The measures of `Monitor` in the loggers of a Lightning `Trainer`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from lazyscope.groups import Groups
from lazyscope.torch.monitoring import Monitor, checked_every

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _package() -> Any:
    """Lightning under the name by which it is imported, or else installed."""
    imported = [name for name in _PACKAGES if name in sys.modules]
    found = imported or [name for name in _PACKAGES if find_spec(name.partition(".")[0])]
    return import_module((found or _PACKAGES)[0])


if TYPE_CHECKING:
    from lightning.pytorch import Callback as _Base  # pyright: ignore[reportMissingImports]
else:
    _Base = _package().Callback


class LightningCallback(_Base):
    """A Lightning callback that logs how lazily a run trains, from its first step to its last.

        trainer = L.Trainer(callbacks=[lst.LightningCallback(batch, every=100)])

    The weights at the start of training are w0. After the first step of the optimiser, every `every` steps and after
    the last one, what `Monitor` measures on `batch` goes to every logger of the trainer (`log_metrics`, with the number
    of steps done), whatever `log_every_n_steps` says. In a run of one process it is in `trainer.callback_metrics` too,
    where EarlyStopping and ModelCheckpoint look (but for that of the last step).

    What is measured is `forward` of the LightningModule on what it takes of `batch`, or with `model` that of this
    submodule of it ("net", "net.encoder"). Only the first process measures. The run itself is not touched: its weights
    are those of the same run without the callback, bit for bit. `output`, `groups`, `seed` and the costs are those of
    `Monitor`. Checkpoints hold w0 in the state of this callback, as large as the trainable weights, and a run that is
    resumed from one is measured from there.

    For `lightning.pytorch` and for `pytorch_lightning`, whichever is imported first.
    """

    def __init__(
        self,
        batch: Any,
        every: int = 100,
        *,
        model: str | None = None,
        output: Any = None,
        groups: Groups = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.every = checked_every(every)
        self._batch, self._model = batch, model
        self._options = {"output": output, "groups": groups, "seed": seed}
        self._monitor: Monitor | None = None
        self._start: dict[str, Any] | None = None
        self._last = 0

    @property
    def state_key(self) -> str:
        """Checkpoints tell callbacks of different models apart."""
        return self._generate_state_key(model=self._model)

    def state_dict(self) -> dict[str, Any]:
        """W0, once there is one."""
        if self._monitor is None:
            return {}
        return {"start": {name: torch.from_numpy(np.array(value)) for name, value in self._monitor.start.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The w0 of the run that is resumed."""
        self._start = state_dict.get("start")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Keep w0."""
        if not trainer.is_global_zero:
            return
        measured = pl_module if self._model is None else _submodule(pl_module, self._model)
        self._last = trainer.global_step
        batch = trainer.precision_plugin.convert_input(self._batch)
        with _not_logged(pl_module):
            self._monitor = Monitor(measured, batch, start=self._start, **self._options)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        """Measure, where it is time to."""
        # A batch may take no step (accumulation) or several (two optimisers).
        first = self._last == 0 < trainer.global_step
        if first or trainer.global_step // self.every > self._last // self.every:
            found = self._measure(trainer, pl_module)
            if found and trainer.world_size == 1:
                pl_module.log_dict(found, on_step=True, on_epoch=False, logger=False, batch_size=1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure at the end, and let go of the model."""
        if trainer.global_step > self._last:
            self._measure(trainer, pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let go of the model and of w0."""
        self._monitor = self._start = None

    def _measure(self, trainer: Any, pl_module: Any) -> dict[str, float]:
        if self._monitor is None:
            return {}
        self._last = trainer.global_step
        with _not_logged(pl_module):
            found = self._monitor.measure()
        for logger in trainer.loggers:
            logger.log_metrics(found, step=trainer.global_step)
        return found


@contextmanager
def _not_logged(pl_module: Any) -> Iterator[None]:
    """Without what `forward` logs: a pass of ours is none of the run's."""
    held = vars(pl_module)
    held.update(log=_ignored, log_dict=_ignored)
    try:
        yield
    finally:
        del held["log"], held["log_dict"]


def _ignored(*_: Any, **__: Any) -> None:
    pass


def _submodule(pl_module: Any, name: str) -> Any:
    try:
        return pl_module.get_submodule(name)
    except AttributeError:
        listed = ", ".join(part for part, _ in pl_module.named_children())
        raise ValueError(
            f"model must name a submodule, got {name!r}: {type(pl_module).__name__} has {listed}"
        ) from None
