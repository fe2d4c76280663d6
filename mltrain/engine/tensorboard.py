"""TensorBoard's event files: figures, PR curves, pictures, and the hyper-parameters of a finished run.

Written through TensorBoard's own protocol buffers, without torch.utils.tensorboard, and imported when first used: other
tools of the project need not pay for it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

THRESHOLDS = 127
"""Points of a PR curve: TensorBoard reads no more."""
FINAL = "final"
"""Folder, beside the event files of the training, of what is written once at the end of a run."""


class TensorBoard:
    """Event files of a run, one event for all figures of a `log`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def resume(self, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(self.folder), flush_secs=30)
        if step:
            # A session that starts at a step makes TensorBoard drop what earlier ones recorded from there on.
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=step + 1, session_log=start))

    def log(self, step: int, scalars: Mapping[str, Any]) -> None:
        numbers = {key: float(value) for key, value in scalars.items() if isinstance(value, (int, float))}
        self.add(step, [self._summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()])

    def add(self, step: int, values: Iterable[Any]) -> None:
        """Record summary values (`pr_curve`, `picture`) after optimizer step `step`."""
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))

    def close(self, failed: bool) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def pr_curve(tag: str, counts: np.ndarray, *, about: str = "") -> Any:
    """Value of the PR-curves tab.

    Args:
        tag: under which it is shown.
        counts: (2, T): positives and negatives with a probability of at least k / (T - 1), for k = 0 .. T - 1.
        about: shown beside it.
    """
    from tensorboard.plugins.pr_curve.metadata import create_summary_metadata

    tp, fp = counts.astype(np.float64)
    positives, negatives = tp[0], fp[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        # Where nothing is predicted TensorBoard's own curves have a precision of 0, which draws a spike.
        precision = np.where(tp + fp > 0, tp / (tp + fp), 1.0)
        recall = np.where(positives > 0, tp / positives, 0.0)
    rows = np.stack([tp, fp, negatives - fp, positives - tp, precision, recall])
    metadata = create_summary_metadata(display_name=tag, description=about, num_thresholds=rows.shape[1])
    return _value(tag=tag, metadata=metadata, tensor=_tensor(rows))


def picture(tag: str, content: bytes, width: int, height: int) -> Any:
    """Value of the images tab, of the content of a PNG or JPEG file."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=content)
    return _value(tag=tag, image=image)


def charts(layout: Mapping[str, list[str]]) -> Any:
    """Value that lays out the custom-scalars tab: a chart for each title, of the tags that match the expressions."""
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    drawn = [
        layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
        for title, tags in layout.items()
    ]
    content = layout_pb2.Layout(category=[layout_pb2.Category(title="average precision", chart=drawn)])
    return _value(
        tag=metadata.CONFIG_SUMMARY_TAG,
        metadata=metadata.create_summary_metadata(),
        tensor=_tensor(content.SerializeToString()),
    )


def write_final(
    folder: Path,
    step: int,
    hyperparameters: Mapping[str, Any],
    metrics: Mapping[str, float],
    values: Iterable[Any] = (),
) -> None:
    """Write the folder `FINAL` anew: hyper-parameters with the metrics beside them in the HParams tab, and `values`.

    A folder of its own makes a run of its own in TensorBoard, whose scalars are then the only columns of that tab; and
    it is written anew because a run that is killed at its very end finishes twice.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for key, value in hyperparameters.items():
        if isinstance(value, bool):
            start.hparams[key].bool_value = value
        elif isinstance(value, (int, float)):
            start.hparams[key].number_value = value
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            start.hparams[key].string_value = text
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
    place = folder / FINAL
    shutil.rmtree(place, ignore_errors=True)
    writer = EventFileWriter(str(place))
    tagged = [
        _hparams("session_start_info", plugin_data_pb2.HParamsPluginData(session_start_info=start)),
        _hparams("session_end_info", plugin_data_pb2.HParamsPluginData(session_end_info=end)),
        *(Summary.Value(tag=key, simple_value=float(value)) for key, value in metrics.items()),
        *values,
    ]
    writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=tagged)))
    writer.close()


def _hparams(name: str, data: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import SummaryMetadata

    # What tensorboard.plugins.hparams.metadata does, without the half second that importing it takes.
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=data.SerializeToString())
    empty = _tensor(np.zeros(0))
    return _value(tag=f"_hparams_/{name}", metadata=SummaryMetadata(plugin_data=plugin), tensor=empty)


def _tensor(content: np.ndarray | bytes) -> Any:
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

    if isinstance(content, bytes):
        return TensorProto(dtype="DT_STRING", string_val=[content], tensor_shape=TensorShapeProto())
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in content.shape])
    return TensorProto(dtype="DT_FLOAT", float_val=content.reshape(-1).tolist(), tensor_shape=shape)


def _value(**fields: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary.Value(**fields)
