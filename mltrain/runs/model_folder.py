"""Write weights as a folder that every command takes like a run: config.yaml, model.safetensors, classes.txt ..."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file

from mltrain.engine.run_folder import CONFIG, SOURCE, STATS
from mltrain.errors import ConfigError
from mltrain.files import atomic_folder, give_usual_mode, write_json
from mltrain.labels import LabelStats
from mltrain.models.classifier import Classifier
from mltrain.models.heads import ZeroShotMLDecoder
from mltrain.models.label_embeddings import write_label_embeddings
from mltrain.runs.settings import CLASSES_FILE, EMBEDDINGS_FILE, WEIGHTS_FILE


def write_model_folder(
    out: Path,
    cfg: DictConfig,
    model: Classifier,
    names: tuple[str, ...],
    source: Mapping[str, Any],
    *,
    stats: LabelStats | None = None,
    others: Mapping[str, Any] | None = None,
) -> None:
    """Write the folder atomically; it replaces what `out` has.

    Args:
        out: the folder.
        cfg: config; the label embeddings of a zero-shot head are put into the folder and named in it.
        model: with the weights.
        names: classes in the order of the logits.
        source: what the weights were made of, for source.json.
        stats: of the training set, where they are known.
        others: JSON files by name.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        with atomic_folder(out) as temporary:
            state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
            save_file(state, temporary / WEIGHTS_FILE, metadata={"format": "pt"})
            classes = temporary / CLASSES_FILE
            classes.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
            give_usual_mode(temporary / WEIGHTS_FILE)  # safetensors lets nobody else read it
            if isinstance(model.head, ZeroShotMLDecoder):  # or the folder would depend on a file elsewhere
                write_label_embeddings(temporary / EMBEDDINGS_FILE, names, model.head.label_embeddings.cpu().numpy())
                cfg.head.embeddings = EMBEDDINGS_FILE
            OmegaConf.save(cfg, temporary / CONFIG, resolve=True)
            files = {SOURCE: source, **({} if stats is None else {STATS: stats.to_json()}), **(others or {})}
            for name, content in files.items():
                write_json(temporary / name, content)
    except OSError as error:
        raise ConfigError(
            f"out: {out} cannot be written: {error.strerror or error}; choose another with out=DIR"
        ) from error
