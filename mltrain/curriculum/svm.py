"""A support vector machine on the model's features, which scores images instead of the model's own head."""

from __future__ import annotations

import numpy as np

from mltrain.errors import DataError


def svm_losses(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, *, c: float = 1.0) -> np.ndarray:
    """Return ``-log p`` of each image's label, float64 (N,), where p is the softmax of an SVM's decision values.

    The SVM is scikit-learn's SVC with an RBF kernel and one decision value per class, as in self-paced balance
    learning. It is fitted to the images with a weight above 0; time and memory grow with the square of their number.

    Args:
        features: float (N, D).
        labels: int64 (N,): class of each image.
        weights: float64 (N,): sample weights, 0 or above.
        c: the SVM's C.

    Raises:
        DataError: all images with a weight above 0 have one class.
    """
    from sklearn.svm import SVC

    used = np.flatnonzero(weights > 0)
    classes = np.unique(labels[used])
    if len(classes) < 2:
        raise DataError("curriculum.scorer=svm: the images trained on so far are all of one class; use scorer=model")
    svm = SVC(C=c, kernel="rbf", decision_function_shape="ovr")
    svm.fit(features[used], labels[used], sample_weight=weights[used])
    values = svm.decision_function(features)
    if values.ndim == 1:  # with two classes SVC returns the value of the second only
        values = np.stack([-values, values], axis=1)
    top = values.max(axis=1, keepdims=True)
    log_total = top[:, 0] + np.log(np.exp(values - top).sum(axis=1))
    place = np.searchsorted(classes, labels)
    known = np.flatnonzero(classes[np.minimum(place, len(classes) - 1)] == labels)
    losses = np.full(len(labels), np.inf)
    losses[known] = log_total[known] - values[known, place[known]]
    return losses
