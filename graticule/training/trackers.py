"""Experiment trackers that are told what ``history.csv`` is told: Lightning's own loggers."""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from graticule.choices import Tracker
from graticule.errors import BadRecipeError


def make_logger(tracker: Tracker | None, name: str, folder: Path | None) -> Logger | bool:
    """Lightning's logger of a tracker, with its files in ``folder`` where it keeps files; False without one.

    Raises:
        BadRecipeError: the tracker is not installed.
    """
    if tracker is None:
        return False
    here = folder or Path()
    try:
        if tracker == "tensorboard":
            return TensorBoardLogger(here, name="tensorboard", version="")
        if tracker == "wandb":
            return WandbLogger(project="graticule", name=name, save_dir=here)
        if tracker == "mlflow":
            where = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(here / 'mlflow.db').absolute()}"
            return MLFlowLogger("graticule", run_name=name, tracking_uri=where)
        return _Trackio(name)
    except (ModuleNotFoundError, ImportError) as error:
        raise BadRecipeError(f"--logger {tracker} needs the package {tracker}: pip install {tracker}") from error


class _Trackio(Logger):
    """Trackio has no logger of Lightning's; its calls are those of wandb."""

    def __init__(self, run: str) -> None:
        import trackio  # type: ignore[import-not-found]

        self._trackio, self._run = trackio, run
        self._started = False

    @property
    def name(self) -> str:
        return "graticule"

    @property
    def version(self) -> str:
        return self._run

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self._trackio.init(project=self.name, name=self._run, config=params, resume="allow")
        self._started = True

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._trackio.log(metrics, step=step)

    def finalize(self, *_: Any) -> None:
        if self._started:
            self._trackio.finish()
