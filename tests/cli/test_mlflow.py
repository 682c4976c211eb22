"""Trainings that are also in MLflow: with a client made by hand, and with the real one where it is installed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from driving import TRAIN, Outcome

from edgecnn.bundle import open_bundle
from edgecnn.errors import MissingPackageError, StoppedError
from edgecnn.pipeline import tracking
from edgecnn.pipeline.context import Context
from edgecnn.steps import TrainStep

Cli = Callable[..., Outcome]
URI = "http://tracking.example:5000"


class Server:
    """What a server has been sent, and when it does not answer: calls are numbered from 0."""

    def __init__(self) -> None:
        self.parameters: dict[str, str] = {}
        self.metrics: dict[str, dict[int, float]] = defaultdict(dict)
        self.artifacts: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.status: list[str] = []
        self.runs = 0
        self.calls = 0
        self.down: Callable[[int], bool] = lambda call: False

    def answer(self) -> None:
        self.calls += 1
        if self.down(self.calls - 1):
            raise ConnectionError("connection refused\nand a long explanation")


class Client:
    """The part of ``mlflow.MlflowClient`` that is used."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def get_experiment_by_name(self, name: str) -> None:
        self.server.answer()

    def create_experiment(self, name: str) -> str:
        return "7"

    def create_run(self, experiment: str, tags: dict[str, str]) -> SimpleNamespace:
        self.server.answer()
        assert experiment == "7"
        self.server.runs += 1
        self.server.tags = tags
        return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    def update_run(self, run: str, status: str) -> None:
        self.server.answer()
        assert run == "r1"
        self.server.status.append(status)

    def log_batch(self, run: str, params: Any = (), metrics: Any = ()) -> None:
        self.server.answer()
        for key, value in params:
            assert key not in self.server.parameters and isinstance(value, str)
            self.server.parameters[key] = value
        for key, value, time_ms, step in metrics:
            assert step not in self.server.metrics[key] and time_ms > 1.6e12 and isinstance(value, float)
            self.server.metrics[key][step] = value

    def log_artifact(self, run: str, path: str) -> None:
        self.server.answer()
        self.server.artifacts[Path(path).name] = Path(path).read_text(errors="replace")

    def set_terminated(self, run: str, status: str) -> None:
        self.server.answer()
        self.server.status.append(status)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()
    entities = SimpleNamespace(Param=lambda *words: words, Metric=lambda *words: words)
    library = SimpleNamespace(MlflowClient=lambda: Client(found), get_tracking_uri=lambda: URI)
    monkeypatch.setattr(tracking, "require", lambda module, extra: entities if module.endswith("entities") else library)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in (*tracking.PATIENCE, "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")
    return found


def rows_of(bundle: Path) -> list[dict[str, float]]:
    head, *lines = (bundle / "history.csv").read_text().splitlines()
    return [dict(zip(head.split(","), map(float, line.split(",")), strict=True)) for line in lines]


def test_settings_epochs_figures_and_history_are_logged(cli: Cli, server: Server, tmp_path: Path) -> None:
    run = tmp_path / "tiny"
    outcome = cli("train", "digits", "-o", run, *TRAIN, "--set", "mlflow=true")
    assert outcome.code == 0, outcome.err
    assert f"MLflow run tiny/float at {URI}" in outcome.err
    made, rows = open_bundle(run / "float"), rows_of(run / "float")
    assert server.tags["mlflow.runName"] == "tiny/float"
    assert {key: server.parameters[key] for key in ("lr", "model", "data.source", "stages")} == {
        "lr": "0.1",
        "model": "mobilenet_v2",
        "data.source": "digits",
        "stages": "[[1, 16, 1, 1], [4, 24, 2, 1], [4, 32, 2, 2]]",
    }
    assert all(
        server.metrics[name] == {int(row["epoch"]): row[name] for row in rows} for name in rows[0] if name != "epoch"
    )
    assert server.metrics["final/test_top1"] == {3: made.manifest.figures["test_top1"]}
    assert server.artifacts["history.csv"] == (run / "float" / "history.csv").read_text()
    assert "recipe.yaml" in server.artifacts and server.status == ["FINISHED"]
    assert "mlflow" not in made.manifest.config  # it is the same training without
    calls = server.calls
    assert "skipped" in cli("train", "digits", "-o", run, *TRAIN, "--set", "mlflow=false").err
    assert server.calls == calls


def begun(tmp_path: Path, told: list[str]) -> tracking.MlflowTracker:
    """The tracker of a training with checkpoints in ``tmp_path``."""
    found = tracking.MlflowTracker(told.append)
    found.begin(tmp_path / "run" / "float", {"lr": 0.1}, {"source": "digits"}, tmp_path)
    return found


def end(tracker: tracking.MlflowTracker, epochs: range, folder: Path) -> None:
    with tracker:
        for epoch in epochs:
            tracker.epoch({"epoch": epoch, "val_loss": 1.0 / epoch})
        tracker.finish({"test_top1": 0.5}, folder)


def test_a_server_that_fails_in_the_middle_costs_nothing(server: Server, tmp_path: Path) -> None:
    told: list[str] = []
    server.down = lambda call: call in (3, 4)  # the first two epochs: what was missed comes with the third
    end(begun(tmp_path, told), range(1, 4), tmp_path)
    assert [line.startswith("MLflow does not answer, the training goes on") for line in told] == [False, True]
    assert told[1].endswith(": connection refused")
    assert server.metrics["val_loss"] == {1: 1.0, 2: 1 / 2, 3: 1 / 3} and server.status == ["FINISHED"]


def test_a_server_that_stays_away_is_told_with_what_it_has(server: Server, tmp_path: Path) -> None:
    told: list[str] = []
    server.down = lambda call: call >= 4
    end(begun(tmp_path, told), range(1, 4), tmp_path)
    assert len(told) == 3 and "it has 1 epochs" in told[2]
    assert server.metrics["val_loss"] == {1: 1.0} and server.status == []


def test_a_server_that_is_not_there_is_told_before_the_training(cli: Cli, server: Server, tmp_path: Path) -> None:
    server.down = lambda call: True
    outcome = cli("train", "digits", "-o", tmp_path / "run", *TRAIN, "--set", "mlflow=true")
    assert outcome.code == 2
    assert f"MLflow cannot be used at {URI}: connection refused" in outcome.err and "mlflow=false" in outcome.err
    assert "epoch" not in outcome.err and not (tmp_path / "run" / "float").exists()


def test_a_training_that_goes_on_goes_on_in_its_run(server: Server, tmp_path: Path) -> None:
    told: list[str] = []
    stopped = begun(tmp_path, told)
    with pytest.raises(StoppedError), stopped:
        stopped.epoch({"epoch": 1, "val_loss": 1.0})
        server.down = lambda call: call == 4
        stopped.epoch({"epoch": 2, "val_loss": 0.5})
        raise StoppedError("SIGTERM")
    (tmp_path / "history.csv").write_text("epoch,val_loss\n1,1.0\n2,0.5\n")
    end(begun(tmp_path, told), range(3, 4), tmp_path)
    assert server.runs == 1 and server.status == ["KILLED", "RUNNING", "FINISHED"]
    assert server.metrics["val_loss"] == {1: 1.0, 2: 0.5, 3: 1 / 3}


@pytest.mark.parametrize("asked", ["setting", "environment"])
def test_a_missing_package_is_told_first(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    def missing(module: str, *, extra: str) -> Any:
        raise MissingPackageError(f"{module} is not installed", hint=f"install it with: pip install 'edgecnn[{extra}]'")

    monkeypatch.setattr(tracking, "require", missing)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI if asked == "environment" else "")
    chosen = ("--set", "mlflow=true") if asked == "setting" else ()
    outcome = cli("train", "digits", "-o", tmp_path / "run", *TRAIN, *chosen)
    assert outcome.code == 2
    assert "mlflow is not installed" in outcome.err and "edgecnn[mlflow]" in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "environment", "tracked"),
    [(None, "", False), (None, URI, True), (False, URI, False), (True, "", True)],
)
def test_who_decides(
    server: Server, monkeypatch: pytest.MonkeyPatch, setting: bool | None, environment: str, tracked: bool
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", environment)
    found = tracking.tracker(Context(Path()), TrainStep(mlflow=setting))
    assert isinstance(found, tracking.MlflowTracker) == tracked


@pytest.mark.filterwarnings("ignore")
def test_with_the_real_client(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "digits")
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install edgecnn[mlflow]")
    outcome = cli("train", "digits", "-o", tmp_path / "run", *TRAIN)
    assert outcome.code == 0, outcome.err
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    figures = json.loads((tmp_path / "run" / "float" / "manifest.json").read_text())["figures"]
    assert found.info.status == "FINISHED" and found.info.run_name == "run/float"
    assert found.data.metrics["final/test_top1"] == figures["test_top1"] and found.data.params["epochs"] == "3"
    assert [each.step for each in client.get_metric_history(found.info.run_id, "val_loss")] == [1, 2, 3]
    assert {each.path for each in client.list_artifacts(found.info.run_id)} >= {"history.csv", "recipe.yaml"}
