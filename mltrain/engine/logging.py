"""Log of a run's figures: metrics.jsonl always, TensorBoard, wandb and mlflow if the config asks for them.

Only the main rank writes. On resume, records after the resumed step are dropped, so that the log of a resumed run
reads like that of a run that never stopped.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import logging
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from PIL import Image

import mltrain
from mltrain.engine.distributed import Distributed
from mltrain.engine.run_folder import ENVIRONMENT, METRICS, flatten, parse_record
from mltrain.engine.tensorboard import TensorBoard
from mltrain.errors import ConfigError, described
from mltrain.files import has_file, without_nan, write_json, write_text
from mltrain.transcript import typed_words

logger = logging.getLogger(__name__)

Scalars = Mapping[str, Any]


@dataclass(frozen=True)
class FinalRecord:
    """The end of a run, for services that show tables and pictures."""

    step: int
    figures: Mapping[str, float]
    """of the best weights: `val/map`, `test/OF1` ..."""
    classes: Sequence[Sequence[Any]]
    """figures of each class, the header first, as in per_class.csv"""
    pictures: Sequence[tuple[str, Image.Image]]
    """file and picture of some validation images, with their labels and predictions written below"""


class Sink(Protocol):
    """A place that figures go to."""

    def resume(self, step: int, *, evaluated: bool = True) -> None:
        """Open for a run after optimizer step `step`; figures of later steps are dropped.

        Without `evaluated`, the evaluation at `step` is still to come, so that of an earlier start is dropped too.
        """

    def log(self, step: int, scalars: dict[str, Any]) -> None:
        """Record figures after optimizer step `step`."""

    def flush(self) -> None:
        """Write figures that are still in memory to their files."""
        return

    def close(self, failed: bool) -> None:
        """Finish; `failed` tells whether the run ended with an error."""


class MetricsLog(Sink):
    """`metrics.jsonl`: one JSON object per line, `step` first, flushed at once.

    Figures that are not finite become null.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def resume(self, step: int, *, evaluated: bool = True) -> None:
        """Drop the records after `step`, without `evaluated` also the evaluation there, and open the file.

        Raises:
            DataError: something else has the name of the file.
        """
        kept = []
        if has_file(self.path):
            for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
                record = parse_record(line)
                if record is None or record["step"] > step:
                    continue
                if evaluated or record["step"] < step or record.get("epoch") is None:
                    kept.append(line)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "".join(line + "\n" for line in kept))
        self._file = self.path.open("a", encoding="utf-8")

    def log(self, step: int, scalars: dict[str, Any]) -> None:
        """Append a record."""
        assert self._file is not None, "resume() comes first"
        self._file.write(json.dumps({"step": step, **without_nan(scalars)}, allow_nan=False) + "\n")
        self._file.flush()

    def close(self, failed: bool) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class _Service(Sink):
    """A package that sends figures by itself. Raises ConfigError where it is not installed."""

    package = ""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        if importlib.util.find_spec(self.package) is None:
            raise ConfigError(
                f"logger.{self.package}=true needs the package {self.package}: pip install "
                f"'mltrain-vision[{self.package}]', or logger.{self.package}=false"
            )
        options = config["logger"]
        self.folder, self.config, self.project = folder, config, options["project"]
        self.entity, self.group, self.tags = options.get("entity"), options.get("group"), options.get("tags") or []
        # <dataset>-<name>-<id> in letters that every service allows; a resumed run is found by it
        self.name = re.sub(r"[^\w.-]", "_", "-".join(folder.resolve().parts[-3:]))[-100:]
        self.shown_name = options.get("run_name") or self.name

    def finish(self, final: FinalRecord) -> None:
        """Record what a run ends with."""
        raise NotImplementedError


class Wandb(_Service):
    """Weights & Biases; a resumed run continues the same wandb run. Its own variables (WANDB_MODE ...) apply."""

    package = "wandb"
    _run: Any = None

    def resume(self, step: int, *, evaluated: bool = True) -> None:
        """Start or continue the wandb run."""
        import wandb

        options: dict[str, Any] = {"name": self.shown_name, "id": self.name, "resume": "allow"}
        options |= {"entity": self.entity, "group": self.group, "tags": self.tags or None}
        self._run = wandb.init(project=self.project, dir=str(self.folder), config=dict(self.config), **options)
        # wandb's own step must never fall, which a resumed one does: `step` is a figure like others and the x axis.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, scalars: dict[str, Any]) -> None:
        """Send the numbers among `scalars`."""
        self._run.log({"step": step, **dict(_numbers(scalars))})

    def finish(self, final: FinalRecord) -> None:
        """Send a table of the classes, a table of pictures, and the final figures as the run's summary."""
        import wandb

        header, *rows = final.classes
        classes = wandb.Table(columns=list(header), data=[list(row) for row in rows])
        images = [wandb.Image(picture, caption=name) for name, picture in final.pictures]
        rows = [[image, name] for image, (name, _) in zip(images, final.pictures, strict=True)]
        predictions = wandb.Table(columns=["image", "file"], data=rows)
        self._run.log({"step": final.step, "classes": classes, "predictions": predictions, "pictures": images})
        self._run.summary.update({f"best/{key}": value for key, value in final.figures.items()})

    def close(self, failed: bool) -> None:
        """Finish the wandb run."""
        if self._run is not None:
            self._run.finish(exit_code=int(failed))
            self._run = None


class Mlflow(_Service):
    """MLflow; a resumed run continues the same MLflow run.

    Its place is MLFLOW_TRACKING_URI, or a folder in the run folder.
    """

    package = "mlflow"
    _client: Any = None

    def resume(self, step: int, *, evaluated: bool = True) -> None:
        """Start or continue the MLflow run."""
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            # MLflow 3.17 uses a folder only with this variable; its alternative, a database, needs more than
            # mlflow-skinny.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (self.folder / "mlruns").resolve().as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(self.project)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(self.project)
        found = self._client.search_runs([experiment_id], f"tags.mltrain_run = '{self.name}'", max_results=1)
        if step and found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        tags = {"mltrain_run": self.name, **dict.fromkeys(self.tags, "true")}
        tags |= {"group": self.group} if self.group else {}
        run = self._client.create_run(experiment_id, run_name=self.shown_name, tags=tags)
        self._id = run.info.run_id
        for key, value in flatten(self.config).items():
            self._client.log_param(self._id, key, str(value)[:500])

    def log(self, step: int, scalars: dict[str, Any]) -> None:
        """Send the numbers among `scalars`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        # MLflow allows letters, digits, _ - . space and / in a name.
        metrics = [Metric(re.sub(r"[^\w\-./ ]", "_", k), v, now, step) for k, v in _numbers(scalars)]
        self._client.log_batch(self._id, metrics=metrics)

    def finish(self, final: FinalRecord) -> None:
        """Store the table of the classes and the pictures as artifacts, and the final figures as `best/...`."""
        self.log(final.step, {f"best/{key}": value for key, value in final.figures.items()})
        text = io.StringIO()
        csv.writer(text).writerows(final.classes)
        self._client.log_text(self._id, text.getvalue(), "classes.csv")
        for k, (name, picture) in enumerate(final.pictures):
            file = re.sub(r"[^\w.-]", "_", Path(name).stem)
            self._client.log_image(self._id, picture, artifact_file=f"predictions/{k:02d}_{file}.png")

    def close(self, failed: bool) -> None:
        """Finish the MLflow run."""
        if self._client is not None:
            self._client.set_terminated(self._id, status="FAILED" if failed else "FINISHED")
            self._client = None


class Sinks:
    """All sinks behind one `log`, and a context manager that closes them; there are none except on the main rank."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self.sinks = list(sinks)
        self.final: Callable[..., FinalRecord] | None = None
        """makes what services show, of a result and its evaluation"""

    def __enter__(self) -> Sinks:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        for sink in self.sinks:
            sink.close(error is not None)

    def resume(self, step: int, *, evaluated: bool = True) -> None:
        """Open every sink for a run after optimizer step `step` (0: a new run); must be called before `log`.

        `evaluated` is False if the evaluation at `step` is still to come.
        """
        for sink in self.sinks:
            sink.resume(step, evaluated=evaluated)

    def log(self, step: int, scalars: Scalars) -> None:
        """Record figures after optimizer step `step`. Values are numbers, one-element tensors, strings or None."""
        if self.sinks:
            # a one-element tensor or a NumPy number becomes Python's
            plain = {key: value.item() if hasattr(value, "item") else value for key, value in scalars.items()}
            for sink in self.sinks:
                sink.log(step, plain)

    def finish(self, *outcome: Any) -> None:
        """Record what the run ends with, where a service shows it. One that fails is named; the result stays."""
        services = [sink for sink in self.sinks if isinstance(sink, _Service)]
        if not services or self.final is None:
            return
        final = self.final(*outcome)
        for sink in services:
            try:
                sink.finish(final)
            except Exception as error:  # noqa: BLE001  the package of the service, or its server
                logger.warning("%s has no tables and pictures of this run: %s", sink.package, described(error))

    def flush(self) -> None:
        """Write what sinks keep in memory to their files."""
        for sink in self.sinks:
            sink.flush()


def make_sinks(folder: Path, config: Mapping[str, Any], dist: Distributed) -> Sinks:
    """Make the sinks that `config["logger"]` asks for.

    Raises:
        ConfigError: a package is missing, on every rank; the message has the command that installs it.
    """
    options = config["logger"]
    sinks: list[Sink] = [MetricsLog(folder / METRICS)]
    if options["tensorboard"]:
        sinks.append(TensorBoard(folder / "tensorboard"))
    if options["wandb"]:
        sinks.append(Wandb(folder, config))
    if options["mlflow"]:
        sinks.append(Mlflow(folder, config))
    return Sinks(sinks if dist.is_main else [])


def save_environment(folder: Path) -> None:
    """Write environment.json: versions, git commit of the source, hardware and command line of this start."""
    packages = ("torch", "torchvision", "timm", "numpy", "scipy", "pillow", "hydra-core", "omegaconf")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    environment = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        **typed_words(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {**{name: _version(name) for name in packages}, "mltrain": mltrain.__version__},
        "git": _git(Path(__file__).parent),
        "cpu": {"model": _cpu_model(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "world_size": int(os.environ.get("WORLD_SIZE") or 1),
    }
    write_json(folder / ENVIRONMENT, environment)


def _numbers(scalars: Scalars) -> list[tuple[str, float]]:
    return [(key, float(value)) for key, value in scalars.items() if isinstance(value, (int, float))]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path) -> dict[str, Any] | None:
    """Return the commit of the checkout of this code and whether tracked files changed; None for an installed copy."""
    try:
        commands = (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        commit, status = (
            subprocess.run(
                ["git", "-C", str(folder), *command], capture_output=True, encoding="utf-8", timeout=10, check=True
            ).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(status)}


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8", errors="replace"))
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()
