"""Newton's method for the stages of implicit Runge-Kutta methods, with one Jacobian block per sample.

    G_i(K) = K_i - f(t_i, base + dt sum_j a_ij K_j) = 0,      i, j = 1..S

The state is a real matrix [B, N] here, one row per sample; ``K: [S, B, N]``. As long as ``f`` treats samples
independently, its Jacobian ``J_i = df/dy`` at stage ``i`` is block diagonal, N vector-Jacobian products give all its
blocks [B, N, N], and Newton's matrices are ``M = I - dt (a_ij J_i)``, [B, S N, S N]. A field that mixes samples is
found out by one more product with a probe vector (:class:`RowsMix`); it needs a :class:`Rows` with ``B = 1``, which is
one dense Jacobian of everything. ``M`` is kept from step to step (simplified Newton) until convergence is slow.

Fields that autograd cannot differentiate are solved by Broyden's method, from ``M = I`` and in low-rank form.
Hairer, Wanner, "Solving Ordinary Differential Equations II", 2nd ed., IV.8; Kelley, "Solving Nonlinear Equations with
Newton's Method", 2003, ch. 4.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .errors import SolverError
from .field import Field
from .fixed_grid import number
from .kernels.reference.combine import Weight
from .tree import Parts

#: an iteration has converged when it moves no stage by more than this many units in the last place of the state
TOLERANCE_ULPS = 10
#: an iteration that shrinks by less than this factor wants a new Jacobian; with a new one, it has reached the rounding
#: errors of the field
STALLED = 0.5
#: what a vector-Jacobian product costs, in evaluations
VJP_COST = 2
#: relative difference of step sizes below which factors serve again: the rounding of a grid's points
SAME_STEP = 1e-6
#: largest relative discrepancy, in units in the last place, between block-diagonal and true products with the probe
PROBE_ULPS = 4096


class RowsMix(Exception):
    """The slope of a sample depends on other samples: the Jacobian is not block diagonal."""


class NoDerivative(Exception):
    """The field's value has no graph that leads to the state."""


class Rows:
    """How a state lies in a real matrix [B, N]; complex elements as pairs.

    Args:
        like: the parts.
        dense: one row for everything, instead of one for each sample (the parts' common first axis).
    """

    def __init__(self, like: Parts, dense: bool) -> None:
        self.shapes = [p.shape for p in like]
        self.complex = like[0].is_complex()
        self.rows = 1 if dense else len(like[0])
        per_element = 2 if self.complex else 1
        self.widths = [per_element * p.numel() // max(self.rows, 1) for p in like]
        self.width = sum(self.widths)

    @staticmethod
    def separable(like: Parts) -> bool:
        """Whether the first axis can be that of samples: parts share it, and it is not all there is."""
        if any(p.ndim == 0 or len(p) != len(like[0]) for p in like):
            return False
        return len(like) > 1 or like[0].ndim > 1

    def join(self, parts: Parts) -> Tensor:
        """Parts as [B, N]."""
        real = [torch.view_as_real(p) for p in parts] if self.complex else parts
        flat = [p.reshape(self.rows, width) for p, width in zip(real, self.widths, strict=True)]
        return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)

    def split(self, z: Tensor) -> Parts:
        """The parts of [B, N], contiguous."""
        parts = []
        for piece, shape in zip(z.split(self.widths, dim=1), self.shapes, strict=True):
            if self.complex:
                parts.append(torch.view_as_complex(piece.reshape(*shape, 2).contiguous()))
            else:
                parts.append(piece.reshape(shape).contiguous())
        return tuple(parts)

    def size(self, z: Tensor) -> Tensor:
        """The largest element of each row and part of [..., B, N], at each of their places."""
        sizes = [p.abs().amax(dim=-1, keepdim=True).expand_as(p) for p in z.split(self.widths, dim=-1) if p.shape[-1]]
        return torch.cat(sizes, dim=-1) if sizes else z


class StageEquations:
    """``G(K) = 0`` for the stages that are solved together.

    Args:
        field, rows: the vector field and the layout of its state.
        times: S 0-dim tensors.
        base: [B, N]; dt: signed; a: [S, S] the method's coefficients of these stages.
    """

    def __init__(self, field: Field, rows: Rows, times: Sequence[Tensor], base: Tensor, dt: Weight, a: Tensor) -> None:
        self.field, self.rows = field, rows
        self.times, self.base, self.dt, self.a = times, base, dt, a
        self.size = number(dt)

    def detached(self) -> StageEquations:
        """The same equations as constants."""
        times = [t.detach() for t in self.times]
        return StageEquations(self.field, self.rows, times, self.base.detach(), self.size, self.a)

    def states(self, k: Tensor) -> Tensor:
        """Stage states [S, B, N] of slopes [S, B, N]."""
        states: Tensor = self.base + self.dt * torch.tensordot(self.a, k, dims=1)
        return states

    def slopes(self, y: Tensor) -> Tensor:
        """``f`` at stage states, [S, B, N]."""
        values = [
            self.rows.join(self.field(t, self.rows.split(z))) for t, z in zip(self.times, y.unbind(0), strict=True)
        ]
        return torch.stack(values)

    def jacobians(self, y: Tensor) -> Tensor:
        """Blocks [S, B, N, N] of ``df/dy`` at stage states.

        Raises:
            RowsMix: there is more to the Jacobian than these blocks.
            NoDerivative: autograd finds no way from any slope to its state.
        """
        found = [self._jacobian(t, z) for t, z in zip(self.times, y.unbind(0), strict=True)]
        if all(j is None for j in found):
            raise NoDerivative
        none = y.new_zeros(self.rows.rows, self.rows.width, self.rows.width)
        return torch.stack([none if j is None else j for j in found])

    def _jacobian(self, t: Tensor, z: Tensor) -> Tensor | None:
        traced = self.field.traced
        with torch.inference_mode(False), torch.enable_grad():
            z = z.detach().clone().requires_grad_()
            f = self.rows.join(self.field(t.detach().clone(), self.rows.split(z)))
            self.field.traced = traced
            if not f.requires_grad:
                return None
            blocks = torch.stack([_pull(f, z, d) for d in range(self.rows.width)], dim=1)
            if self.rows.rows > 1:
                self._probe(f, z, blocks)
        return blocks

    def _probe(self, f: Tensor, z: Tensor, blocks: Tensor) -> None:
        # A fixed vector without pattern: the user's random numbers stay as they are.
        n = torch.arange(1, z.numel() + 1, dtype=torch.float64, device=z.device)
        v = torch.sin(n * n).to(z.dtype).view_as(z)
        (true,) = torch.autograd.grad(f, z, v, retain_graph=False, allow_unused=True, materialize_grads=True)
        found = torch.einsum("bd,bde->be", v, blocks)
        bound = torch.einsum("bd,bde->be", v.abs(), blocks.abs()).max()
        if bool((true - found).abs().max() > PROBE_ULPS * torch.finfo(z.dtype).eps * bound):
            raise RowsMix


def _pull(f: Tensor, z: Tensor, d: int) -> Tensor:
    """Row ``d`` of the Jacobian of every sample, [B, N]."""
    cotangent = torch.zeros_like(f)
    cotangent[:, d] = 1
    (row,) = torch.autograd.grad(f, z, cotangent, retain_graph=True, allow_unused=True, materialize_grads=True)
    return row


class Factors:
    """``M = I - dt (a_ij J_i)``, [B, S N, S N], factorised."""

    def __init__(self, jacobians: Tensor, dt: float, a: Tensor) -> None:
        self.jacobians, self.dt = jacobians, dt
        stages, rows, n, _ = jacobians.shape
        m = torch.einsum("ij,ibde->bidje", -dt * a, jacobians).reshape(rows, stages * n, stages * n)
        m.diagonal(dim1=1, dim2=2).add_(1)
        self.lu, self.pivots, info = torch.linalg.lu_factor_ex(m)
        if bool(info.any()):
            row = int(info.nonzero()[0])
            raise SolverError(
                f"row {row}: the matrix I - dt a df/dy of Newton's method is singular at dt={dt:.6g}. The stages have "
                "no unique solution there; take another `step_size`, or another method"
            )

    def solve(self, g: Tensor) -> Tensor:
        """``M^-1 g`` for [S, B, N]; differentiable in ``g``."""
        stages, rows, n = g.shape
        flat = g.transpose(0, 1).reshape(rows, stages * n, 1)
        solved: Tensor = torch.linalg.lu_solve(self.lu, self.pivots, flat)
        return solved.view(rows, stages, n).transpose(0, 1)


class Newton:
    """Solves the stages of one solve, step after step; keeps the factors of its last matrix.

    Args:
        max_iters: iterations per system.
    """

    def __init__(self, max_iters: int) -> None:
        self.max_iters = max_iters
        self.factors: Factors | None = None

    def solve(self, equations: StageEquations) -> Tensor:
        """The slopes K [S, B, N], constants for autograd.

        Raises:
            RowsMix: the layout's rows depend on each other.
            SolverError: Newton's matrix is singular.
        """
        equations = equations.detached()
        try:
            return self._newton(equations)
        except NoDerivative:
            return self._broyden(equations)

    def attach(self, equations: StageEquations, k: Tensor) -> Tensor:
        """``k`` with its dependence on everything that ``equations`` depends on.

        At the solution, ``K <- K - M^-1 G(K)`` with ``M = dG/dK`` held fixed has the derivatives of the implicit
        function: the first after one correction, the second after two.
        """
        constants = equations.detached()
        try:
            self.factors = Factors(constants.jacobians(constants.states(k)), equations.size, equations.a)
        except NoDerivative:  # the slopes depend on other things than the state, and M = I
            return equations.slopes(equations.states(k))
        for _ in range(2):
            k = k - self.factors.solve(k - equations.slopes(equations.states(k)))
        return k

    def _newton(self, equations: StageEquations) -> Tensor:
        if self.factors is not None and abs(equations.size - self.factors.dt) > SAME_STEP * abs(equations.size):
            self.factors = Factors(self.factors.jacobians, equations.size, equations.a)
        k = _start(equations)
        progress = _Progress(equations)
        for _ in range(self.max_iters):
            y = equations.states(k)
            residual = k - equations.slopes(y).detach()
            fresh = self.factors is None or progress.slow
            if fresh:
                self.factors = Factors(equations.jacobians(y), equations.size, equations.a)
            assert self.factors is not None
            change = self.factors.solve(residual)
            k = k - change
            if progress.ends(y, change, may_stall=fresh):
                break
        progress.warn()
        return k

    def _broyden(self, equations: StageEquations) -> Tensor:
        """Broyden's "good" method from the identity; one vector kept per iteration."""
        k = _start(equations)
        progress = _Progress(equations)
        changes: list[Tensor] = []
        for _ in range(self.max_iters):
            y = equations.states(k)
            change = equations.slopes(y).detach() - k
            for s, following in pairwise(changes):
                change = change + following * ((s * change).sum() / (s * s).sum())
            if changes:
                s = changes[-1]
                change = change / (1 - (s * change).sum() / (s * s).sum())
            k = k + change
            changes.append(change)
            if progress.ends(y, change, may_stall=False):
                break
        progress.warn()
        return k


def _start(equations: StageEquations) -> Tensor:
    """K = 0, so that every stage starts at the state: ``f(t, y)`` would start far away in a stiff transient."""
    return equations.base.new_zeros(len(equations.times), *equations.base.shape)


class _Progress:
    """How fast an iteration converges."""

    def __init__(self, equations: StageEquations) -> None:
        self.equations = equations
        self.eps = torch.finfo(equations.base.dtype).eps
        self.moved = float("inf")
        self.rate = 0.0

    def ends(self, y: Tensor, change: Tensor, may_stall: bool) -> bool:
        """Whether a change of the slopes is nothing beside the state, cannot become smaller, or is NaN."""
        rows = self.equations.rows
        scale = torch.maximum(rows.size(y), rows.size(self.equations.base))
        moved = change.abs() * abs(self.equations.size)
        ratio = torch.where(moved == 0, moved, moved / scale)
        before, self.moved = self.moved, float(ratio.max()) if ratio.numel() else 0.0
        self.rate = self.moved / before if before else 0.0
        if self.moved <= TOLERANCE_ULPS * self.eps or self.moved != self.moved:
            return True
        return may_stall and self.rate > STALLED and self.acceptable

    @property
    def slow(self) -> bool:
        """Whether a new Jacobian would cost less than going on with the old one."""
        if not self.rate <= STALLED:
            return True
        if self.rate == 0:
            return False
        iterations = math.log(TOLERANCE_ULPS * self.eps / self.moved) / math.log(self.rate)
        return iterations > VJP_COST * self.equations.rows.width + 3

    @property
    def acceptable(self) -> bool:
        """Half of the digits stand: torchdiffeq's tolerance in float64."""
        return bool(self.moved <= self.eps**0.5)

    def warn(self) -> None:
        """Say so if the iteration ended without a result."""
        if not self.acceptable:
            warnings.warn("Functional iteration did not converge. Solution may be incorrect.", stacklevel=2)
