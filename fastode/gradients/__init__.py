"""Ways to differentiate a solve as one node of the autograd graph. Plain autograd (``odeint``) needs no file here."""

from __future__ import annotations

from .backsolve import backsolve
from .discrete import discrete

GRADIENTS = {"backsolve": backsolve, "discrete": discrete}

__all__ = ["GRADIENTS", "backsolve", "discrete"]
