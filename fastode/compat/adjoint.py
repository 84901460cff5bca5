"""torchdiffeq's autograd node, for code that applies it itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._odeint import find_parameters, odeint_adjoint

__all__ = ["OdeintAdjointMethod", "find_parameters"]


class OdeintAdjointMethod:
    """``apply`` with torchdiffeq's arguments, those that ``_check_inputs`` returns among them."""

    @staticmethod
    def apply(
        shapes: Sequence[torch.Size] | None,
        func: Callable[..., Any],
        y0: Tensor,
        t: Tensor,
        rtol: Any,
        atol: Any,
        method: str | None,
        options: dict[str, Any] | None,
        event_fn: Callable[..., Any] | None,
        adjoint_rtol: Any,
        adjoint_atol: Any,
        adjoint_method: str | None,
        adjoint_options: dict[str, Any] | None,
        t_requires_grad: bool,
        *adjoint_params: Tensor,
    ) -> Any:
        """The solution of a flat state; ``shapes`` and ``t_requires_grad`` follow from the tensors."""
        return odeint_adjoint(
            func,
            y0,
            t,
            rtol=rtol,
            atol=atol,
            method=method,
            options=options,
            event_fn=event_fn,
            adjoint_rtol=adjoint_rtol,
            adjoint_atol=adjoint_atol,
            adjoint_method=adjoint_method,
            adjoint_options=adjoint_options,
            adjoint_params=adjoint_params,
        )
