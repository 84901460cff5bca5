"""torchdiffeq's norms. Its two defaults are the kernels' own, so that passing them costs nothing."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..kernels.norms import max_norm as _linf_norm
from ..kernels.norms import mixed_norm as _mixed_norm
from ..kernels.reference.finish import rms as _rms_norm

__all__ = ["_linf_norm", "_mixed_norm", "_rms_norm", "_zero_norm"]


def _zero_norm(tensor: Tensor | Sequence[Tensor]) -> float:
    """Nothing is ever rejected."""
    return 0.0
