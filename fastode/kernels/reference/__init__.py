"""The reference engine: plain torch, any device and dtype, differentiable. It defines what every kernel means."""

from .combine import combine
from .control import control
from .finish import finish, rms, rms_rows, scaled_error
from .interpolate import interpolate, quartic_rates, quartic_weights
from .stage import stage

__all__ = [
    "combine",
    "control",
    "finish",
    "interpolate",
    "quartic_rates",
    "quartic_weights",
    "rms",
    "rms_rows",
    "scaled_error",
    "stage",
]
