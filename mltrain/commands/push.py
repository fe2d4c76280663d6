"""Write the model of a run as a folder to publish, with a model card, and upload it if you wish.

    mltrain push runs/coco/tresnet_l-gap-asl/0a1b2c3d license=apache-2.0      RUN/hub
    mltrain push RUN out=published license=cc-by-nc-4.0 data_license='CC BY 4.0'
    mltrain push RUN license=mit repo=me/tresnet-l-coco                       also to the Hugging Face hub

The folder has the weights (model.safetensors), config.yaml, classes.txt, config.json for other programs, results, and
the model card, README.md. Every command that takes a run folder takes it too. To upload, log in with `hf auth login` or
set HF_TOKEN.
"""

from __future__ import annotations

import copy
import csv
import json
import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from omegaconf import DictConfig, OmegaConf

from mltrain.cli import Command
from mltrain.config.schema import INJECTED, PathsOptions
from mltrain.engine.run_folder import (
    CONFIG,
    ENVIRONMENT,
    EVALUATION,
    EVALUATION_PER_CLASS,
    PER_CLASS,
    RESULT,
    SOURCE,
    STATS,
    THRESHOLDS,
)
from mltrain.errors import ConfigError, DataError, MltrainError
from mltrain.files import has_file, leftovers, remove_leftovers, temporary_folder
from mltrain.labels import check_class_names
from mltrain.runs.settings import CLASSES_FILE, EMBEDDINGS_FILE, WEIGHTS_FILE, option_name
from mltrain.text import csv_cell, csv_text

if TYPE_CHECKING:
    from mltrain.runs.folder import FinishedRun

logger = logging.getLogger(__name__)


CARD_FILE, FACTS_FILE = "README.md", "config.json"
AS_THEY_ARE = (STATS, THRESHOLDS)  # class names may look like paths: "/m/01g317"
PER_CLASS_FILES = (PER_CLASS["val"], EVALUATION_PER_CLASS["val"])
TAKEN_ALONG = (RESULT, ENVIRONMENT, SOURCE, *AS_THEY_ARE)
UPLOADED = [
    *(CARD_FILE, FACTS_FILE, WEIGHTS_FILE, CLASSES_FILE, EMBEDDINGS_FILE, CONFIG, PER_CLASS["val"], *TAKEN_ALONG),
    *("*.onnx", "*.pt2"),
]
"""Other files in the folder, such as predictions of an evaluation, are not uploaded."""


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the run's config."""

    out: str | None = None
    """folder to write; other files in it stay, and .onnx and .pt2 files are uploaded too; null: RUN/hub"""
    weights: Literal["best", "val", "ema"] = "best"
    """best: weights that validation chose; val: raw weights; ema: averaged weights"""
    license: str | None = None
    """licence of the weights, as the hub names it (mit, apache-2.0, cc-by-nc-4.0 ...), or any text"""
    data_license: str | None = None
    """licence of the training images, any text"""
    repo: str | None = None
    """also upload to this repository of the Hugging Face hub, OWNER/NAME"""
    private: bool = False
    """make the repository private if it is new"""


def push(cfg: DictConfig, folder: Path, options: Options) -> Path:
    """Write the model of a run folder as a folder to publish, upload it to `options.repo`, and return the folder.

    The folder has the weights (safetensors), `config.yaml`, `classes.txt`, `config.json` for programs without mltrain,
    results and statistics, and the card as `README.md`; every command that takes a run folder takes it. Other files in
    it stay; `.onnx` and `.pt2` files are uploaded too. Absolute paths are cut to their last part.

    Raises:
        ConfigError: `out` is a folder with other content, or an option does not fit.
        CheckpointError: the run's weights are missing or do not fit.
        MltrainError: the folder cannot be written, or the upload fails.
    """
    from mltrain.runs.folder import load_finished

    out = Path(options.out) if options.out else folder / "hub"
    if options.private and options.repo is None:
        raise ConfigError("private=true needs an upload: add repo=OWNER/NAME")
    if out.resolve() == folder.resolve():
        raise ConfigError(f"out={out}: this is the run folder itself; choose another")
    if out.is_dir() and not (out / FACTS_FILE).is_file():
        left = leftovers(out)  # by a killed call
        if any(path not in left and not path.name.startswith(".push-") for path in out.iterdir()):
            raise ConfigError(f"out={out}: the folder has other files; choose an empty or a new folder")
    started = copy.deepcopy(cfg)  # load_finished clears the keys about the start of the training
    run = load_finished(folder, weights=options.weights, config=cfg)
    try:
        check_class_names(run.class_names, str(folder))
    except ValueError as error:
        raise ConfigError(f"{error}; {CLASSES_FILE} has one name per line") from error
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Write all files before any gets its name: an interruption leaves the old folder.
        remove_leftovers(out)
        with temporary_folder(out / "push") as temporary:
            _write(temporary, run, started, options)
            # The first file marks the folder as one of this command, which may be killed before it has moved them all.
            for file in sorted(temporary.iterdir(), key=lambda file: file.name != FACTS_FILE):
                file.replace(out / file.name)
    except OSError as error:
        named = f" ({error.filename})" if error.filename else ""
        raise MltrainError(f"{out}: cannot be written: {error.strerror or error}{named}") from error
    logger.info("%s: %s", out, ", ".join(sorted(f.name for f in out.iterdir())))
    if options.repo is not None:
        logger.info("uploaded to %s", _upload(out, options.repo, private=options.private))
    elif options.license is None:
        logger.info("the card names no licence; add one, e.g. license=apache-2.0")
    return out


def _write(folder: Path, run: FinishedRun, started: DictConfig, options: Options) -> None:
    """Write all files; `started` is the config with the start of the training."""
    from safetensors.torch import save_file

    from mltrain.models.heads import ZeroShotMLDecoder
    from mltrain.models.label_embeddings import write_label_embeddings
    from mltrain.report.model_card import CardContent, model_card
    from mltrain.runs.facts import facts

    found = {name: _read_json(run.folder / name) for name in TAKEN_ALONG}
    if found[RESULT] is None:  # the weights were trained elsewhere, and perhaps evaluated here
        found[RESULT] = _read_json(run.folder / EVALUATION)
    kept = {k: v if k in AS_THEY_ARE else _without_folders(v) for k, v in found.items() if v is not None}
    if RESULT in kept:
        kept[RESULT] = _result_of(kept[RESULT], run.weights)
    if THRESHOLDS in kept:
        kept[THRESHOLDS] |= {"weights": "val", "best": {}}  # the folder has these weights only
    plain = OmegaConf.to_container(started, resolve=True)
    assert isinstance(plain, dict)
    config = {str(k): v if k == "partial" else _without_folders(v) for k, v in plain.items()} | {
        "paths": asdict(PathsOptions())
    }
    if isinstance(run.model.head, ZeroShotMLDecoder):
        write_label_embeddings(folder / EMBEDDINGS_FILE, run.class_names, run.model.head.label_embeddings.numpy())
        config["head"]["embeddings"] = EMBEDDINGS_FILE
    known = facts(run)
    model = {"architecture": config["model"].get("name"), "head": option_name("head", config["head"])}
    card = CardContent(
        title=options.repo.rpartition("/")[2] if options.repo else _title(config, kept.get(SOURCE)),
        config=config,
        names={key: option_name(key, config[key]) for key in INJECTED if key in config},
        facts=known,
        parameters=sum(p.numel() for p in run.model.parameters()),
        stats=run.stats,
        result=kept.get(RESULT, {}),
        per_class=_rows_of(run.folder, run.weights),
        thresholds=kept.get(THRESHOLDS, {}),
        environment=kept.get(ENVIRONMENT, {}),
        source=kept.get(SOURCE, {}),
        license=options.license,
        data_license=options.data_license,
        repo=options.repo,
    )
    state = {key: tensor.detach().clone().contiguous() for key, tensor in run.model.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    texts = {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in kept.items()}
    texts |= {
        CARD_FILE: model_card(card),
        FACTS_FILE: json.dumps(model | known, indent=2, ensure_ascii=False) + "\n",
        CLASSES_FILE: "".join(f"{name}\n" for name in run.class_names),
        CONFIG: yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    }
    if card.per_class:
        with (folder / PER_CLASS["val"]).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(card.per_class[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({key: csv_cell(cell) for key, cell in row.items()} for row in card.per_class)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _title(config: dict[str, Any], source: dict[str, Any] | None) -> str:
    """Return the title of the card: the name of a converted file, else of the run, with its data set."""
    if source is not None:
        return str(source["file"]).partition(".")[0]
    names = [option_name(key, config[key]) for key in ("model", "head", "loss", "dataset")]
    return f"{config.get('name') or '-'.join(names[:3])} on {names[3]}"


def _without_folders(node: Any) -> Any:
    """Return values with absolute paths cut to their last part, because folders may tell who trained the model."""
    if isinstance(node, dict):
        return {str(key): _without_folders(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_folders(value) for value in node]
    if not isinstance(node, str):
        return node
    # Paths also follow "=", in commands.
    return re.sub(r"(^|=)(/[^=]*/|~/(?:[^=]*/)?)(?=[^/=]+$)", r"\1", node)


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the table in a JSON file, or None if there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise MltrainError(f"{path}: cannot be read as JSON ({error}); repair or remove it") from error
    return content if isinstance(content, dict) else None


def _result_of(result: dict[str, Any], weights: str) -> dict[str, Any]:
    """Return result.json with the figures of the published weights only, named "val"."""
    best = result.get("best") or {}
    averaged = weights == "ema" or bool(best.get("averaged"))
    kept = {k: v for k, v in result.items() if k not in ("ema", "last", "folder", "test")}
    kept |= {"val": result.get(weights) or {}, "best": {k: best[k] for k in ("epoch", "step", "by") if k in best}}
    kept["best"] |= {"weights": "val", "averaged": averaged}
    if weights in (result.get("test") or {}):
        kept["test"] = {"val": result["test"][weights]}
    return kept


def _rows_of(folder: Path, weights: str) -> list[dict[str, str]]:
    """Return the rows of per_class.csv with the figures of the published weights only, named "val_..."."""
    path = next((p for name in PER_CLASS_FILES if has_file(p := folder / name)), None)
    if path is None:
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        problem = "" if rows else "holds no class"
    except (ValueError, csv.Error) as error:
        rows, problem = [], f"cannot be read: {error}"
    if problem:
        raise DataError(f"{path}: {problem}; delete it to publish the model without figures by class")
    other = "val_" if weights == "ema" else "ema_"
    return [
        {k.replace(f"{weights}_", "val_", 1) if k.startswith(f"{weights}_") else k: csv_text(v) for k, v in row.items()
         if not k.startswith(other)}
        for row in rows
    ]  # fmt: skip


def _upload(folder: Path, repo: str, *, private: bool) -> str:
    """Upload the folder and return the address of the repository."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ConfigError(f"repo={repo}: uploading needs huggingface_hub: pip install 'mltrain-vision[hub]'") from error
    api = HfApi()
    try:
        name = api.create_repo(repo, private=private, exist_ok=True).repo_id
        api.upload_folder(
            repo_id=name, folder_path=folder, commit_message="Upload from mltrain", allow_patterns=UPLOADED
        )
    except Exception as error:  # the client raises its own errors and those of its HTTP library
        raise MltrainError(
            f"repo={repo}: the upload failed ({type(error).__name__}: {str(error).splitlines()[0]}). The folder "
            f"{folder} is complete; log in with `hf auth login` and repeat, or upload it in another way"
        ) from error
    return f"{api.endpoint}/{name}"


COMMAND = Command(push, about=__doc__, takes="run", options=Options)
