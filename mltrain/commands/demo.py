"""Open a local page where a finished run names the labels of images that are dropped on it.

    mltrain demo RUN                              then open http://127.0.0.1:7860; Ctrl-C ends
    mltrain demo RUN port=8000 topk=20            another port; more classes in the table
    mltrain demo RUN nearest=0                    without the training images
    mltrain demo RUN host=0.0.0.0                 for the whole network, without a password

The page shows the classes with their scores and thresholds, as `mltrain predict` has them; where the model finds them,
as `mltrain explain` draws it; and the training images that the backbone finds nearest to the image. For those the
command reads the training images once, and keeps their features in the run folder (train_features.npz). Where the
training images are not at hand, the page says so. It needs `pip install 'mltrain-vision[demo]'`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from omegaconf import DictConfig

from mltrain.cli import Command
from mltrain.config.schema import number
from mltrain.errors import MltrainError
from mltrain.sizes import in_pixels
from mltrain.text import counted

if TYPE_CHECKING:
    import numpy as np

    from mltrain.report.html.demo import Answer, Part, Row
    from mltrain.runs.folder import FinishedRun
    from mltrain.runs.nearest import TrainingImages
    from mltrain.runs.one_image import Look
    from mltrain.runs.predictor import Predictor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the run's config."""

    host: str = "127.0.0.1"
    """address to listen on; 127.0.0.1: this machine only; 0.0.0.0: every network that this machine is in"""
    port: int = number(7860, least=0, most=65535)
    """port to listen on; 0: any free one"""
    topk: int = number(10, least=1, most=100)
    """show the best so many classes, or all that are predicted where these are more, up to 100"""
    nearest: int = number(6, least=0, most=60)
    """show so many training images; 0: none, and no data set is read"""
    threshold: float | None = number(None, least=0, most=1)
    """predict classes above this probability; null: above the run's thresholds"""
    weights: Literal["best", "val", "ema"] = "best"
    """best: weights that validation chose; val: raw weights; ema: averaged weights"""


MOST = 100
"""classes in the table and among the maps"""


def demo(cfg: DictConfig, folder: Path, options: Options) -> None:
    """Serve the page of a run until Ctrl-C.

    Raises:
        ConfigError: gradio is missing, the port is taken, or see `Predictor`.
    """
    from mltrain.runs.demo_server import import_gradio, listening, serve

    gradio = import_gradio()
    with listening(options.host, options.port) as opened:
        from mltrain.report.html.demo import heading_html, page_css

        page = DemoPage.of_run(cfg, folder, options)
        title = f"{page.run.config.dataset.name}: {page.run.config.name or folder.name}"
        heading = heading_html(title, page.facts())
        serve(gradio, opened, options.host, title=title, heading=heading, css=page_css(), answer=page.answer)


@dataclass(frozen=True)
class DemoPage:
    """Parts from which the page answers for an image."""

    run: FinishedRun
    predictor: Predictor
    options: Options
    training: TrainingImages | None
    no_training: str = ""
    """why there are no training images to show"""

    @classmethod
    def of_run(cls, cfg: DictConfig, folder: Path, options: Options) -> DemoPage:
        """Load the model and, unless nearest=0, the features of the training images."""
        from mltrain.runs.folder import load_finished
        from mltrain.runs.nearest import training_images
        from mltrain.runs.predictor import Predictor

        run = load_finished(folder, weights=options.weights, config=cfg)
        predictor = Predictor.from_run(run, threshold=options.threshold)
        if not options.nearest:
            return cls(run, predictor, options, None)
        try:
            return cls(run, predictor, options, training_images(run, predictor))
        except (MltrainError, OSError) as error:
            logger.warning("the training images cannot be shown: %s", error)
            return cls(run, predictor, options, None, str(error))

    def facts(self) -> list[str]:
        """Return what the head of the page says about the run."""
        from mltrain.engine.run_folder import WEIGHTS

        best, classes = self.run.best, counted(len(self.run.class_names), "class")
        chosen = f"{WEIGHTS[self.run.weights]} weights"
        if "epoch" in best and self.run.weights == best.get("weights"):
            chosen += f" of epoch {best['epoch']}"
        return [str(self.run.folder), classes, chosen, in_pixels(self.run.image_size)]

    def answer(self, file: str | None) -> tuple[str, str]:
        """Return the HTML beside an image and below it; None: before there is one."""
        from mltrain.pipeline.decode import read_image
        from mltrain.report.html.demo import Answer, labels_html, pictures_html
        from mltrain.runs.one_image import look

        if file is None:
            return labels_html(Answer(summary="Drop an image to see its labels.")), ""
        try:
            image = read_image(file)
            found = look(self.predictor, image)
        except MltrainError as error:
            reason = str(error).replace(file, Path(file).name)
            return labels_html(Answer(problem=reason)), ""
        rows = self._rows(found)
        parts = [self._maps(image, found, rows), *([self._nearest(found)] if self.options.nearest else [])]
        return labels_html(self._labels(found, rows)), pictures_html(parts)

    def _rows(self, found: Look) -> list[Row]:
        """Return the classes to show: those predicted, then the next best."""
        from mltrain.report.html.demo import Row

        names, thresholds = self.predictor.class_names, self.predictor.thresholds
        predicted = [label.name for label in found.labels][:MOST]
        order = [names[c] for c in (-found.scores).argsort(kind="stable")]
        others = [name for name in order if name not in set(predicted)]
        rows = []
        for name in [*predicted, *others[: max(0, self.options.topk - len(predicted))]]:
            c = names.index(name)
            cut = None if thresholds is None else float(thresholds[c])
            rows.append(Row(name, float(found.scores[c]), name in predicted, cut))
        return rows

    def _labels(self, found: Look, rows: list[Row]) -> Answer:
        from mltrain.report.html.demo import Answer
        from mltrain.runs.facts import thresholds_origin

        total, count = len(self.predictor.class_names), len(found.labels)
        if self.predictor.thresholds is None:
            summary = f"The most probable of {counted(total, 'class')} is {found.best.name}."
            legend = "Scores are the softmax over all classes."
        else:
            above = "is above its threshold" if count == 1 else "are above their thresholds"
            summary = f"{count or 'None'} of {counted(total, 'class')} {above}."
            given = self.options.threshold
            origin = f"threshold={given:g}" if given is not None else thresholds_origin(self.run)
            legend = f"✓ predicted: the score is above the threshold, the upright mark. Thresholds: {origin}."
        if len(rows) < total:
            summary += f" The table has the best {len(rows)}."
        return Answer(rows, summary, legend)

    def _maps(self, image: np.ndarray, found: Look, rows: list[Row]) -> Part:
        """Return the maps of the predicted classes, or of the best one."""
        from mltrain.models.explain import why_no_maps
        from mltrain.report.html.demo import Part, map_part
        from mltrain.runs.one_image import visible_part

        if found.maps is None:
            return Part("Class maps", f"There are none: {why_no_maps(self.predictor.model)}.")
        chosen = [row for row in rows if row.predicted] or rows[:1]
        indices = [self.predictor.class_names.index(row.name) for row in chosen]
        maps = found.maps.maps[0, indices].cpu().numpy()
        return map_part(visible_part(self.predictor, image), maps, found.maps.kind, chosen)

    def _nearest(self, found: Look) -> Part:
        from mltrain.pipeline.decode import read_image
        from mltrain.report.html.demo import Part, picture_of

        title = "Nearest training images"
        if self.training is None:
            return Part(title, f"The training images are not at hand: {self.no_training}")
        pictures = []
        for near in self.training.nearest(found.feature, self.options.nearest):
            labels = ", ".join(near.labels) or "no label"
            try:
                pictures.append(
                    picture_of(read_image(near.path), labels, (Path(near.path).name, f"cosine {near.cosine:.3f}"))
                )
            except MltrainError as error:  # it was there when its feature was computed
                logger.warning("%s", error)
        of = counted(len(self.training.indices), "training image")
        return Part(
            title, f"By the cosine of the backbone's mean features, of {of}; captions are their labels.", pictures
        )


COMMAND = Command(demo, about=__doc__, takes="run", options=Options)
