"""A fixed affine map, to standardise or whiten data as part of a flow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import InvalidArgument


class Affine(nn.Module):
    """``x = shift + scale u`` with a lower-triangular ``scale``; its log-determinant is counted.

    As the last step of a flow it makes the flow work on data of zero mean and unit covariance, while
    ``log_prob`` stays in the units of the data. With :meth:`whitening`, a flow that is still the identity has
    exactly the likelihood of the Gaussian with the data's mean and covariance, so training starts there.

    Args:
        shift: ``[D]``.
        scale: ``[D, D]``, lower triangular with a positive diagonal.

    Raises:
        InvalidArgument: shapes that do not fit, or a diagonal that is not positive.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Tensor, scale: Tensor) -> None:
        super().__init__()
        if shift.dim() != 1 or scale.shape != (len(shift), len(shift)):
            raise InvalidArgument(
                f"`shift` has shape {tuple(shift.shape)} and `scale` {tuple(scale.shape)}; they must be [D] and [D, D]"
            )
        if not bool((scale.diagonal() > 0).all()):
            raise InvalidArgument(
                "the diagonal of `scale` must be positive; a constant feature has no density: drop it"
            )
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    @classmethod
    def whitening(cls, x: Tensor, ridge: float = 0.0) -> Affine:
        """The map that gives ``u`` zero mean and unit covariance over the rows of ``x``.

        Args:
            x: ``[N, D]``; the data.
            ridge: added to the covariance's diagonal, as a fraction of its mean.

        Raises:
            InvalidArgument: the covariance is singular.
        """
        wide = x.double()
        cov = torch.cov(wide.T, correction=0).reshape(x.shape[1], x.shape[1])
        cov = cov + ridge * cov.diagonal().mean() * torch.eye(len(cov), dtype=cov.dtype, device=cov.device)
        factor, info = torch.linalg.cholesky_ex(cov)
        if int(info) != 0 or not bool(torch.isfinite(factor).all()):
            raise InvalidArgument(
                f"the covariance of the {x.shape[0]} rows is singular: feature {int(info)} (counted from 1) "
                "is constant, or a linear combination of those before it; drop such features or add noise "
                "to them (in Python: `Affine.whitening(x, ridge=1e-6)`)"
            )
        return cls(wide.mean(0).to(x.dtype), factor.to(x.dtype))

    @classmethod
    def standardising(cls, x: Tensor) -> Affine:
        """The map that gives each feature of ``u`` zero mean and unit variance over ``x: [N, D]``."""
        wide = x.double()
        return cls(wide.mean(0).to(x.dtype), torch.diag(wide.std(0, correction=0)).to(x.dtype))

    def log_det(self) -> Tensor:
        """``log |det scale|``, a scalar."""
        return self.scale.diagonal().log().sum()

    def forward(self, u: Tensor) -> Tensor:
        """``x: [B, D]`` from ``u: [B, D]``."""
        return torch.addmm(self.shift, u, self.scale.T)

    def inverse(self, x: Tensor) -> Tensor:
        """``u: [B, D]`` from ``x: [B, D]``."""
        u: Tensor = torch.linalg.solve_triangular(self.scale, (x - self.shift).T, upper=False).T
        return u.contiguous()
