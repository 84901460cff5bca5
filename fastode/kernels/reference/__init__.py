"""The reference engine: plain torch, any device and dtype, differentiable. It defines what every kernel means."""

from .combine import combine
from .finish import finish, rms, rms_rows, scaled_error
from .interpolate import interpolate, quartic_coefficients, quartic_rates, quartic_weights
from .stage import stage

__all__ = [
    "combine",
    "finish",
    "interpolate",
    "quartic_coefficients",
    "quartic_rates",
    "quartic_weights",
    "rms",
    "rms_rows",
    "scaled_error",
    "stage",
]
