"""Neural ODEs and continuous normalizing flows, as ordinary ``torch.nn`` modules.

    >>> cnf = CNF(MLPField(2, hidden=(64, 64)))
    >>> loss = -cnf.log_prob(x).mean()
    >>> samples = cnf.sample(1000)

The modules hold parameters and settings only. A solve leaves nothing behind on them, so they can be copied,
pickled, moved and saved like any other module.
"""

from .affine import Affine
from .cnf import CNF
from .divergence import (
    DivergenceField,
    JvpField,
    autograd_divergence,
    autograd_jvp_dot,
    exact_divergence,
    hutchinson_divergence,
    sample_noise,
)
from .fields import MLPField
from .layers import Activation, ConcatLinear, ConcatSquashLinear
from .neural_ode import NeuralODE
from .normal import StandardNormal
from .settings import SolverSettings

__all__ = [
    "CNF",
    "Activation",
    "Affine",
    "ConcatLinear",
    "ConcatSquashLinear",
    "DivergenceField",
    "JvpField",
    "MLPField",
    "NeuralODE",
    "SolverSettings",
    "StandardNormal",
    "autograd_divergence",
    "autograd_jvp_dot",
    "exact_divergence",
    "hutchinson_divergence",
    "sample_noise",
]
