"""Fit the chest gate on true chest images and drawn negatives."""

from __future__ import annotations

import numpy as np

from encoders.base import Float32
from encoders.towers.gate import ChestGate

#: Principal axes of the chest images' features that the distance looks at.
AXES = 48


def fit_gate(chest: Float32, other: Float32, strength: float = 0.003) -> ChestGate:
    """Return the gate for pooled features of chest images and of other pictures, each (n, channels).

    Parameters
    ----------
    strength : float
        Inverse of the L2 penalty of the logistic regression.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = chest.mean(0), np.maximum(chest.std(0), 1e-3)
    standard = np.clip((chest - mean) / scale, -5, 5)
    variance, axes = np.linalg.eigh(np.cov(standard.T))
    axes = axes[:, ::-1][:, :AXES] / np.sqrt(np.maximum(variance[::-1][:AXES], 1e-6))
    bare = ChestGate(mean, scale, axes.astype(np.float32), np.zeros(chest.shape[1] + 1, np.float32), 0.0)
    inputs = np.concatenate([bare.inputs(chest), bare.inputs(other)])
    truth = np.concatenate([np.ones(len(chest)), np.zeros(len(other))])
    fitted = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000).fit(inputs, truth)
    weight = np.asarray(fitted.coef_[0], np.float32)
    return ChestGate(mean, scale, bare.axes, weight, float(fitted.intercept_[0]))
