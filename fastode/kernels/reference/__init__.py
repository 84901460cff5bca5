"""The reference engine: plain torch, any device and dtype, differentiable. It defines what every kernel means."""

from .combine import combine, per_row, where_rows
from .finish import finish, rms, rms_rows, scaled_error
from .interpolate import QUARTIC, interpolate, quartic_coefficients, quartic_rates, quartic_weights
from .stage import stage

__all__ = [
    "QUARTIC",
    "combine",
    "finish",
    "interpolate",
    "per_row",
    "quartic_coefficients",
    "quartic_rates",
    "quartic_weights",
    "rms",
    "rms_rows",
    "scaled_error",
    "stage",
    "where_rows",
]
