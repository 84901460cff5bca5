"""Continuous normalizing flows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..compiler.compiled import CompiledField
from ..compiler.dispatch import natively
from ..errors import InvalidArgument, did_you_mean
from .affine import Affine
from .divergence import NOISES, DivergenceField, exact_divergence, hutchinson_divergence, sample_noise
from .normal import StandardNormal
from .settings import Compiled, SolverSettings, check_span, trained_parameters

TRACES = ("exact", "hutchinson")
#: a native divergence by tangents costs as much as evaluations of the field by torch for about so many features
MOST_TANGENTS = 8


class CNF(nn.Module):
    """A density that flows from a standard normal at ``t_span[0]`` to the data at ``t_span[1]``.

    Points move along ``dz/dt = func(t, z)``. The logarithm of the density changes by
    ``d log p / dt = -tr(df/dz)``, integrated beside ``z``.

    * ``cnf(z)``, the forward map, goes from the base at ``t_span[0]`` to the data at ``t_span[1]``;
    * ``cnf.inverse(x)`` goes from the data to the base.

    Both return the log-determinant of their own Jacobian, so the two are opposite:
    ``log_prob(x) = log N(z) + logdet`` with ``z, logdet = cnf.inverse(x)``. (This is the direction of
    ``torch.distributions``; FFJORD's code calls the map from data to base "forward".)

    Args:
        func: ``func(t, z) -> dz/dt`` with rows that do not depend on each other; any module, or an
            :class:`MLPField`, which knows its divergence and needs no autograd for it.
        dim: features, ``D``; read from ``func.dim`` or ``affine`` when absent.
        t_span: times of base and data, in units of t.
        trace: ``"exact"``, or ``"hutchinson"``: an unbiased estimate whose noise is drawn once per solve.
        noise: of Hutchinson's estimate, ``"rademacher"`` or ``"gaussian"``.
        affine: a fixed last step from the flow's coordinates to the data's; see :class:`Affine`.
        method, rtol, atol, options: of the solver; see :func:`fastode.odeint`.
        gradient: ``"discrete"`` (default), ``"autograd"`` or ``"backsolve"``; see :class:`NeuralODE`.
        adjoint_options: further keywords of :func:`fastode.odeint_adjoint` for ``"backsolve"``.
        compile: solve natively, density and all, where ``func`` can be compiled (:func:`fastode.compile`). ``func``
            is then called by the trace only: False for one that counts its calls or has hooks.

    Raises:
        InvalidArgument: an unknown ``trace``, ``noise`` or ``gradient``, or no way to tell ``dim``.

    Reference: Chen et al., "Neural Ordinary Differential Equations", NeurIPS 2018, eq. 8; Grathwohl et al.,
    "FFJORD", ICLR 2019, eq. 4 and 7.
    """

    def __init__(
        self,
        func: nn.Module,
        dim: int | None = None,
        t_span: tuple[float, float] = (0.0, 1.0),
        *,
        trace: str = "exact",
        noise: str = "rademacher",
        affine: Affine | None = None,
        method: str = "dopri5",
        rtol: float = 1e-5,
        atol: float = 1e-5,
        options: dict[str, Any] | None = None,
        gradient: str = "discrete",
        adjoint_options: dict[str, Any] | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__()
        for name, value, known in (("trace", trace, TRACES), ("noise", noise, NOISES)):
            if value not in known:
                raise InvalidArgument(
                    f"`{name}={value!r}` is not known.{did_you_mean(value, list(known))} Known: {', '.join(known)}"
                )
        if dim is None:
            dim = affine.shift.shape[0] if affine is not None else getattr(func, "dim", None)
        if not isinstance(dim, int):
            raise InvalidArgument(
                f"`func` is a {type(func).__name__} without a `dim`, so the number of features is not known; "
                "write `CNF(func, dim=2)`"
            )
        self.func = func
        self.compiled = Compiled(compile)
        self.dim = dim
        self.t_span = check_span(t_span)
        self.trace = trace
        self.noise = noise
        self.affine = affine
        self.settings = SolverSettings(method, rtol, atol, options, gradient, adjoint_options or {})

    @property
    def base(self) -> StandardNormal:
        """The density at ``t_span[0]``."""
        return StandardNormal(self.dim)

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        return f"dim={self.dim}, t_span={self.t_span}, trace={self.trace!r}, settings={self.settings}"

    def forward(self, z: Tensor, *, noise: Tensor | None = None, t: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From the base to the data.

        Args:
            z: ``[B, D]`` floating; points at ``t_span[0]``.
            noise: ``[B, D]``; Hutchinson's noise, drawn anew for each call when absent.
            t: ``[2]``; times of base and data instead of ``t_span``. They may require grad: a flow learns how long it
                runs.

        Returns:
            ``x: [B, D]`` and ``log |det dx/dz|: [B]``.
        """
        z = self._check(z, "z")
        x, log_det = self._transport(z, self._times(t, z), noise)
        if self.affine is None:
            return x, log_det
        return self.affine(x), log_det + self.affine.log_det()

    def inverse(self, x: Tensor, *, noise: Tensor | None = None, t: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From the data to the base.

        Args:
            x: ``[B, D]`` floating; points at ``t_span[1]``.
            noise: ``[B, D]``; Hutchinson's noise, drawn anew for each call when absent.
            t: as in :meth:`forward`: the time of the base, then that of the data.

        Returns:
            ``z: [B, D]`` and ``log |det dz/dx|: [B]``.
        """
        x = self._check(x, "x")
        u = x if self.affine is None else self.affine.inverse(x)
        z, log_det = self._transport(u, self._times(t, x).flip(0), noise)
        return z, log_det if self.affine is None else log_det - self.affine.log_det()

    def log_prob(self, x: Tensor, *, noise: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        """Natural logarithm of the density at ``x: [B, D]``, as ``[B]``.

        With ``trace="hutchinson"`` it is an unbiased estimate; ``noise`` and ``t`` as in :meth:`inverse`.
        """
        z, log_det = self.inverse(x, noise=noise, t=t)
        return self.base.log_prob(z) + log_det

    def sample(self, n: int, *, t: Tensor | None = None) -> Tensor:
        """``n`` draws as ``[n, D]``, from torch's global generator, without gradients; ``t`` as in :meth:`forward`."""
        if n < 1:
            raise InvalidArgument(f"`n={n}` must be at least 1; for example `cnf.sample(1000)`")
        like = next((p for p in (*self.parameters(), *self.buffers()) if p.is_floating_point()), torch.empty(0))
        with torch.no_grad():
            return self.trajectory(self.base.sample(n, like.dtype, like.device), n_times=2, t=t)[-1]

    def trajectory(self, z: Tensor, n_times: int = 50, *, t: Tensor | None = None) -> Tensor:
        """The path of points from base to data, without its density.

        Args:
            z: ``[B, D]``; points at ``t_span[0]``.
            n_times: number of equally spaced times, both ends included.
            t: as in :meth:`forward`; not differentiated.

        Returns:
            ``[n_times, B, D]``. With ``affine``, all of it in the coordinates of the data.
        """
        z = self._check(z, "z")
        start, end = self._times(t, z).tolist()
        times = torch.linspace(start, end, n_times, dtype=z.dtype, device=z.device)
        func = self.compiled.field(self.func) if self._may_be_native else self.func
        path: Tensor = self.settings.solve(func, z, times, trained_parameters(self.func))
        self.compiled.note()
        if self.affine is None:
            return path
        mapped: Tensor = self.affine(path.reshape(-1, self.dim))
        return mapped.reshape(path.shape)

    def with_tolerance(self, rtol: float, atol: float, trace: str | None = None) -> CNF:
        """The same flow, sharing parameters, with other tolerances and, if given, another ``trace``."""
        other = copy.copy(self)
        other.settings = replace(self.settings, rtol=rtol, atol=atol)
        other.trace = trace or self.trace
        return other

    def _times(self, t: Tensor | None, like: Tensor) -> Tensor:
        """Times of base and data, [2]."""
        if t is None:
            return torch.tensor(self.t_span, dtype=like.dtype, device=like.device)
        if not isinstance(t, Tensor) or t.shape != (2,) or not t.is_floating_point():
            raise InvalidArgument(f"`t={t!r}` must be a floating tensor of two times, those of base and data")
        return t.to(like)

    def _transport(self, z: Tensor, t: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """The points at ``t[1]`` and the integral of the divergence on the way there from ``t[0]``."""
        if self.trace == "hutchinson" and noise is None:
            noise = sample_noise(z.detach(), self.noise)
        if self.trace == "exact":
            noise = None
        reason = ""
        if self._may_be_native:
            s = self.settings
            field = self.compiled.field(self.func)
            joined = None
            if self._knows_better(field, z):
                reason = "not native: the field's own divergence costs less"
            else:
                joined, reason = natively(
                    field, z, t, (), s.rtol, s.atol, s.method, s.options, divergence=self.trace, noise=noise
                )
            if joined is not None:
                self.compiled.note()
                return joined[-1, :, :-1], joined[-1, :, -1]
        augmented = _Augmented(self.func, noise)
        path = self.settings.solve(augmented, (z, z.new_zeros(z.shape[0])), t, trained_parameters(self.func))
        self.compiled.note()
        if reason:
            self.compiled.served = (self.compiled.served[0], reason)
        return path[0][-1], path[1][-1]

    def _knows_better(self, field: CompiledField, z: Tensor) -> bool:
        """Whether native code would take a tangent for each of many features where the field has a closed form."""
        if self.trace != "exact" or self.dim <= MOST_TANGENTS or not isinstance(self.func, DivergenceField):
            return False
        return not field.has_closed_form(z)

    @property
    def served_by(self) -> tuple[str, str]:
        """The engine of the last solve (``"compiled"`` if it was one native call), and why not a faster one."""
        return self.compiled.served

    @property
    def _may_be_native(self) -> bool:
        return self.compiled.wanted and self.settings.may_be_native

    def _check(self, x: Tensor, name: str) -> Tensor:
        if x.dim() != 2 or x.shape[1] != self.dim or not x.is_floating_point():
            raise InvalidArgument(
                f"`{name}` has shape {tuple(x.shape)} and dtype {x.dtype}; it must be floating, [batch, {self.dim}]"
            )
        return x


class _Augmented:
    """``d(z, l)/dt = (f, tr(df/dz))``. Made for one solve: the noise is fixed during it and gone after it."""

    def __init__(self, func: Callable[[Tensor, Tensor], Tensor], noise: Tensor | None) -> None:
        self.func = func
        self.noise = noise

    def __call__(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if self.noise is None:
            return exact_divergence(self.func, t, state[0])
        return hutchinson_divergence(self.func, t, state[0], self.noise)
