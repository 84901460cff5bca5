"""The yardstick: a Gaussian with full covariance."""

from __future__ import annotations

import torch
from torch import Tensor

from ..nn import Affine, StandardNormal


def gaussian_nll(train: Tensor, test: Tensor) -> float:
    """Negative log-likelihood of ``test: [M, D]``, in nats per row, for the Gaussian of ``train: [N, D]``.

    Raises:
        InvalidArgument: the covariance of ``train`` is singular.
    """
    affine = Affine.whitening(train.double())
    u = affine.inverse(test.double())
    log_prob = StandardNormal(train.shape[1]).log_prob(u) - affine.log_det()
    return -float(torch.mean(log_prob))
