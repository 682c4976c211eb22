"""A training's settings, epochs and figures in MLflow, where ``mlflow: true`` or ``MLFLOW_TRACKING_URI`` asks for it.

Decisions:

* The usual environment variables of MLflow say where: ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` (default:
  edgecnn), and those of its HTTP client; a run is called like the bundle, and a training that goes on goes on there.
* A server that cannot be reached at the start is an error, before pictures are loaded. One that fails later costs no
  training: epochs wait and are sent with the next one, and what is missing is told, once.
* It is where a training is watched, not what it is: no fingerprint knows of it.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edgecnn.bundle import dump_json, write_atomically
from edgecnn.catalog import require
from edgecnn.errors import StoppedError, UsageError
from edgecnn.pipeline.context import Context, Watcher
from edgecnn.steps import TrainStep
from edgecnn.versions import versions

EXPERIMENT = "edgecnn"
NOTE = "mlflow.json"
ARTIFACTS = ("history.csv", "curves.png", "recipe.yaml")
LONGEST_VALUE = 500  # letters of a parameter that every version of MLflow takes
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""For the user's own settings, and only where there are none: its defaults wait for minutes."""


class Tracker:
    """Nothing is tracked: what is called on the way of every training, and does nothing."""

    def begin(self, target: Path, settings: Mapping[str, Any], facts: Mapping[str, Any], work: Path) -> None:
        """The training starts, or goes on, with checkpoints in ``work``; its bundle will be ``target``."""

    def watched(self, context: Context) -> Context:
        """The context, whose watchers also log."""
        return context

    def finish(self, figures: Mapping[str, Any], folder: Path) -> None:
        """The training is done; ``folder`` is the bundle that is being written."""

    def __enter__(self) -> Self:
        """Use as ``with tracker(...) as tracking``."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The training has ended, well or not."""


def tracker(context: Context, step: TrainStep) -> Tracker:
    """The tracker that the step or the environment asks for. Raises MissingPackageError where MLflow is missing."""
    wanted = step.mlflow if step.mlflow is not None else bool(os.environ.get("MLFLOW_TRACKING_URI"))
    if not wanted or (context.world is not None and not context.world.leader):
        return Tracker()
    for name, value in {**PATIENCE, "MLFLOW_DISABLE_TELEMETRY": "true"}.items():
        os.environ.setdefault(name, value)
    require("mlflow", extra="mlflow")
    return MlflowTracker(context.tell)


class MlflowTracker(Tracker):
    """One run of MLflow."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._told = tell, False
        self._mlflow = require("mlflow", extra="mlflow")
        self._entities = require("mlflow.entities", extra="mlflow")
        self._client: Any = None
        self._run = ""
        self._note = Path()
        self._waiting: list[dict[str, float]] = []
        self._logged = 0  # epochs

    def begin(self, target: Path, settings: Mapping[str, Any], facts: Mapping[str, Any], work: Path) -> None:
        """Start a run with the settings, or find the one of this training again. Raises UsageError."""
        self._note = work / NOTE
        where = self._mlflow.get_tracking_uri()
        try:
            self._client = self._mlflow.MlflowClient()
            kept = json.loads(self._note.read_text()) if self._note.is_file() else {}
            if kept.get("uri") == where:
                self._run, self._logged = kept["run"], kept["logged"]
                self._client.update_run(self._run, status="RUNNING")
                self._waiting = [row for row in _history(work) if row["epoch"] > self._logged]
                return
            name = f"{target.resolve().parent.name}/{target.name}"
            tags = {"mlflow.runName": name, "edgecnn.bundle": str(target.resolve()), **_versions()}
            self._run = self._client.create_run(self._experiment(), tags=tags).info.run_id
            parameters = {**settings, **{f"data.{key}": value for key, value in facts.items()}}
            given = [self._entities.Param(key, _word(value)) for key, value in parameters.items()]
            self._client.log_batch(self._run, params=given)
        except Exception as error:  # of HTTP, of the server, of the store: no common base
            raise UsageError(
                f"MLflow cannot be used at {where}: {_first_line(error)}",
                hint="start its server, say where it is with MLFLOW_TRACKING_URI, or train with --set mlflow=false",
            ) from error
        self._remember()
        self._tell(f"MLflow run {name} at {where}")

    def watched(self, context: Context) -> Context:
        """Each epoch goes to MLflow after it was shown."""

        def watch(stage: str, epochs: int) -> Watcher:
            return _Logging(context.watch(stage, epochs), self)

        return replace(context, watch=watch)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Log an epoch, and those that wait."""
        self._waiting.append({key: float(value) for key, value in row.items()})
        self._attempt(self._send, "the epochs are sent when it answers again")

    def finish(self, figures: Mapping[str, Any], folder: Path) -> None:
        """Log the figures (as ``final/NAME``: ``val_top1`` is also an epoch's) and the history, and end the run."""

        def send() -> None:
            self._send()
            numbers = {f"final/{key}": value for key, value in figures.items() if isinstance(value, int | float)}
            self._metrics(numbers, self._logged)
            for name in ARTIFACTS:
                if (folder / name).is_file():
                    self._client.log_artifact(self._run, str(folder / name))
            self._client.set_terminated(self._run, "FINISHED")

        self._told = False  # this is the last word: once more
        self._attempt(send, f"it has {self._logged} epochs; the bundle's history.csv has all")
        self._run = ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say how a training ended that did not finish: stopped (it may go on) or failed."""
        if self._run and error is not None:
            status = "KILLED" if isinstance(error, StoppedError | KeyboardInterrupt) else "FAILED"
            self._attempt(lambda: self._client.set_terminated(self._run, status), "it takes the run for running")

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        if "MLFLOW_EXPERIMENT_ID" in os.environ:
            return os.environ["MLFLOW_EXPERIMENT_ID"]
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def _send(self) -> None:
        while self._waiting:
            row = self._waiting[0]
            self._metrics({key: value for key, value in row.items() if key != "epoch"}, int(row["epoch"]))
            self._logged = int(row["epoch"])
            del self._waiting[0]
            self._remember()

    def _metrics(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(
            self._run, metrics=[self._entities.Metric(key, float(value), now, step) for key, value in values.items()]
        )

    def _remember(self) -> None:
        facts = {"uri": self._mlflow.get_tracking_uri(), "run": self._run, "logged": self._logged}
        write_atomically(self._note, dump_json(facts))

    def _attempt(self, work: Callable[[], None], consequence: str) -> None:
        """Do what needs the server; where that fails tell it, but not again and again."""
        try:
            work()
        except OSError as error:
            if error.filename is not None and str(error.filename).startswith(str(self._note.parent)):
                raise  # our own disk, not the server
            self._tell_once(error, consequence)
        except Exception as error:  # a training does not end because of it
            self._tell_once(error, consequence)

    def _tell_once(self, error: Exception, consequence: str) -> None:
        if not self._told:
            self._told = True
            self._tell(f"MLflow does not answer, the training goes on, {consequence}: {_first_line(error)}")


@dataclass(frozen=True)
class _Logging:
    """A watcher that also logs."""

    shown: Watcher
    tracker: MlflowTracker

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Show and log it."""
        self.shown.on_epoch(row)
        self.tracker.epoch(row)

    def on_step(self, epoch: int, step: int, steps: int) -> None:
        """Show it."""
        self.shown.on_step(epoch, step, steps)

    def close(self) -> None:
        """Close what shows it."""
        self.shown.close()


def _history(work: Path) -> list[dict[str, float]]:
    """The epochs that are done already."""
    file = work / "history.csv"
    if not file.is_file():
        return []
    with file.open(newline="") as lines:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]


def _versions() -> dict[str, str]:
    return {f"edgecnn.version.{name}": version for name, version in versions().items()}


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
