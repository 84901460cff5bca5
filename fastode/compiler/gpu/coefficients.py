"""A tableau as the kernels read it: tensors on the device, made once for each device and type."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...controller import Controller
from ...kernels.native.control import limits_of
from ...tableau import ButcherTableau


@dataclass(frozen=True)
class Coefficients:
    """A tableau on a device.

    Attributes:
        tableau: whose numbers these are.
        nodes: [S] float64.
        lines: [S + 3, S] of the state's dtype: ``a``, ``b``, the weights of the error, those of the midpoint.
    """

    tableau: ButcherTableau
    nodes: Tensor
    lines: Tensor


_tableaus: dict[tuple[int, torch.dtype, torch.device], Coefficients] = {}
_rules: dict[tuple[Controller, torch.device], Tensor] = {}
#: so many controllers are kept, as tolerances and limits may change from solve to solve
_MOST_RULES = 256


def coefficients_of(tableau: ButcherTableau, dtype: torch.dtype, device: torch.device) -> Coefficients:
    """The tableau on ``device``, for states of ``dtype``."""
    key = (id(tableau), dtype, device)
    found = _tableaus.get(key)
    if found is None:
        m, stages = tableau, tableau.stages
        rows = [*m.matrix, m.weights, m.error_weights, m.mid_weights]
        padded = [[*row, *[0.0] * (stages - len(row))] for row in rows]
        found = _tableaus[key] = Coefficients(
            tableau,
            torch.tensor(m.nodes, dtype=torch.float64, device=device),
            torch.tensor(padded, dtype=torch.float64).to(device, dtype),
        )
    return found


def rule_of(controller: Controller, device: torch.device) -> Tensor:
    """[9] float64; order, safety, least and largest factor, least and largest step, and the filter's exponents."""
    key = (controller, device)
    found = _rules.get(key)
    if found is None:
        if len(_rules) >= _MOST_RULES:
            _rules.clear()
        found = _rules[key] = torch.tensor(limits_of(controller), dtype=torch.float64, device=device)
    return found
