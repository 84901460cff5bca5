"""The kernels of a step bound to one solve, in C++.

Raw pointers go in, so everything here must be a plain contiguous CPU tensor; :func:`unavailable` decides that once
per solve. Native code writes only into buffers allocated here, which autograd has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...tableau import ButcherTableau
from ...tree import Parts
from ..addresses import no_plain_tensors
from ..binding import Binding
from ..norms import Measured, UserNorm, by_name, largest
from ..recycle import Spares, time_buffer
from ..reference.combine import Weight
from ..reference.finish import Tolerance
from ..torch_step import TorchStep
from .summation import torch_root, vector_lanes

try:
    from ... import _native
except ImportError as error:  # pragma: no cover - a source tree that was not built
    _native = None  # type: ignore[assignment]
    _missing = f"fastode._native is not built ({error})"


def unavailable(parts: Parts) -> str:
    """Why the native engine cannot serve these tensors, or an empty string."""
    if _native is None:
        return _missing
    return no_plain_tensors(parts, "cpu")


#: tableaus in C++, each with the one it was made from: by identity, for hashing one costs as much as converting it
_tableaus: dict[int, tuple[ButcherTableau, _native.Tableau]] = {}


def _converted(tableau: ButcherTableau) -> _native.Tableau:
    known = _tableaus.get(id(tableau))
    if known is None:
        known = _tableaus[id(tableau)] = (
            tableau,
            _native.Tableau(tableau.nodes, tableau.matrix, tableau.weights, tableau.error_weights, tableau.mid_weights),
        )
    return known[1]


def _bind(
    tableau: ButcherTableau, part: Tensor, rows: int, rtol: Tolerance, atol: Tolerance, threads: int
) -> _native.Step:
    n = part.numel()
    step = _native.Step(
        part.element_size(), rows, n // rows if rows else 0, _converted(tableau), threads, vector_lanes(part.dtype)
    )
    if isinstance(rtol, Tensor) or isinstance(atol, Tensor):
        step.tolerance_arrays(_pointer(rtol), _pointer(atol))
    else:
        step.tolerance(rtol, atol)
    return step


def _pointer(x: Tolerance) -> int:
    assert isinstance(x, Tensor)
    return x.data_ptr()


def expand_tolerances(
    parts: Parts, rtol: Sequence[Tolerance], atol: Sequence[Tolerance]
) -> tuple[list[Tolerance], list[Tolerance]]:
    """Both tolerances of a part as numbers, or both as arrays of the part's shape, dtype and device."""
    r: list[Tolerance] = []
    a: list[Tolerance] = []
    for p, x, y in zip(parts, rtol, atol, strict=True):
        if isinstance(x, Tensor) or isinstance(y, Tensor):
            x, y = (torch.as_tensor(v, dtype=torch.float64).to(p).expand(p.shape).contiguous() for v in (x, y))
        r.append(x)
        a.append(y)
    return r, a


class NativeStep(Measured):
    """:class:`~fastode.kernels.torch_step.TorchStep` in C++, without a tape; one row or rows [R]."""

    engine = "native"
    differentiable = False

    def __init__(self, binding: Binding) -> None:
        super().__init__(binding)
        tableau, like = binding.tableau, binding.like
        rows = 1 if binding.rows is None else binding.rows
        self.binding = binding
        self.tableau = tableau
        self.staged = len(like) - binding.quadratures
        self.tolerances = expand_tolerances(like, binding.rtol, binding.atol)  # kept alive: C++ holds their pointers
        threads = torch.get_num_threads()
        self.steps = [_bind(tableau, p, rows, r, a, threads) for p, r, a in zip(like, *self.tolerances, strict=True)]
        #: kernels of a stage, which take ``size``: one step size, or the address of those of the rows
        self.stages: list[Callable[[int, Any, int, int], None]] = [step.stage for step in self.steps]
        self.size: Any = 0.0
        self.spares = [Spares(p) for p in like]
        self.root = torch_root(like[0].dtype)
        self.clock = time_buffer(tableau.stages, like[0].dtype)
        self.write = not tableau.last_stage_is_solution
        #: the stage that is the new state, which quadratures have too
        self.complete = tableau.stages if self.write else tableau.stages - 1
        self.alone = len(like) == 1
        self.y: Parts = ()
        self.y1: Parts = ()
        self.scratch: Parts = ()
        self.k: list[Parts] = []
        self.dt: Any = 0.0

    def begin(self, t: float, dt: float, t1: float, y: Parts) -> Sequence[Tensor]:
        """Start a step; the times of its stages."""
        self.begin_at(y, dt)
        base, times = self.clock.take()
        self.steps[0].times(t, dt, t1, base.data_ptr())
        return times

    def _release(self, y: Parts) -> None:
        """Offer the buffers of the last step for reuse, except the new state."""
        for old in (self.scratch, self.y1, self.y):
            if old and old is not y:
                for spares, part in zip(self.spares, old, strict=True):
                    spares.give(part)
        self.scratch = self.y1 = self.y = ()

    def stage(self, i: int, k: Parts) -> Parts:
        """The state of stage ``i``, given the slope ``k`` of stage ``i - 1``."""
        self.k.append(k)
        z: Parts
        if self.alone:
            spares = self.spares[0]
            if self.scratch:
                spares.give(self.scratch[0])
                self.scratch = ()
            out = spares.take()
            self.stages[0](i, self.size, k[0].data_ptr(), out.data_ptr())
            self.scratch = z = (out,)
            return z
        if self.scratch:
            for spares, part in zip(self.spares[: self.staged], self.scratch, strict=False):
                spares.give(part)
            self.scratch = ()
            del part
        n = self.staged if i < self.complete else len(k)
        z = tuple([spares.take() for spares in self.spares[:n]])
        size = self.size
        for stage, slope, out in zip(self.stages, k, z, strict=False):
            stage(i, size, slope.data_ptr(), out.data_ptr())
        if n < len(k):
            for step, slope in zip(self.steps[n:], k[n:], strict=True):
                step.slope(i - 1, slope.data_ptr())
            z = (*z, *self.y[n:])
        self.scratch = z
        return z

    def finish(self, k: Parts) -> tuple[Parts, float]:
        """The new state and the norm of the scaled error, given the last slope."""
        self._place_solution(k)
        norm, dt, write = self.norm, self.dt, self.write
        if norm == "rms":
            errors = [
                self.root(step.mean_square(dt, slope.data_ptr(), out.data_ptr(), write))
                for step, slope, out in zip(self.steps, k, self.y1, strict=True)
            ]
            return self.y1, errors[0] if len(errors) == 1 else largest(errors[: self.controlled])
        if norm == "max":
            return self.y1, largest(
                [
                    step.max_error(dt, slope.data_ptr(), out.data_ptr(), write)
                    for step, slope, out in zip(self.steps, k, self.y1, strict=True)
                ][: self.controlled]
            )
        ratios = self._scaled_errors(k)
        if isinstance(norm, UserNorm):
            return self.y1, norm(ratios)
        return self.y1, largest([float(by_name(norm)(r)) for r in ratios[: self.controlled]])

    def advance(self, k: Parts) -> Parts:
        """The new state alone, for methods without an error estimate."""
        self._place_solution(k)
        if self.write:
            for step, slope, out in zip(self.steps, k, self.y1, strict=True):
                step.finish(self.dt, slope.data_ptr(), out.data_ptr(), True)
        return self.y1

    def _place_solution(self, k: Parts) -> None:
        self.k.append(k)
        if self.write:
            self.y1 = tuple([spares.take() for spares in self.spares])
        else:
            self.y1, self.scratch = self.scratch, ()

    def _scaled_errors(self, k: Parts) -> list[Tensor]:
        """Fresh tensors: a user's norm may keep them."""
        ratios = [torch.empty_like(p, requires_grad=False) for p in self.y1]
        for step, slope, out, ratio in zip(self.steps, k, self.y1, ratios, strict=True):
            step.scaled_error(self.dt, slope.data_ptr(), out.data_ptr(), self.write, ratio.data_ptr())
        return ratios

    def interpolate(self, x: Any) -> Parts:
        """Dense output at fraction ``x`` of the step just finished, in fresh tensors."""
        out = tuple([torch.empty_like(p, requires_grad=False) for p in self.y1])
        for step, y1, o in zip(self.steps, self.y1, out, strict=True):
            step.interpolate(x, self.dt, y1.data_ptr(), o.data_ptr())
        return out

    def combine(self, base: Parts, vectors: Sequence[Parts], weights: list[Weight]) -> Parts:
        """``base + sum_j weights[j] * vectors[j]`` for every part, in fresh tensors."""
        out = tuple([torch.empty_like(b, requires_grad=False) for b in base])
        for p, (o, b) in enumerate(zip(out, base, strict=True)):
            combine_into(o, b, [v[p] for v in vectors], weights)  # type: ignore[arg-type]
        return out

    def to_tape(self) -> TorchStep:
        """These kernels recording for autograd, taking over in the middle of the current step."""
        from .tape import NativeTapeStep

        tape = NativeTapeStep(self.binding)
        if self.y:
            tape.begin_at(self.y, self.dt)
            tape.take_over(self.k)
            tape.y1 = self.scratch
        return tape

    def begin_at(self, y: Parts, dt: float) -> None:
        """Start a step whose times are known elsewhere (a fixed grid)."""
        self._release(y)
        self.point_at(y, dt)

    def point_at(self, y: Parts, dt: float) -> None:
        """Point the native kernels at ``y``."""
        self.y, self.dt, self.size = y, dt, dt
        self.k.clear()
        for step, part in zip(self.steps, y, strict=True):
            step.begin(part.data_ptr())

    def register(self, k: Sequence[Parts]) -> None:
        """Point the native kernels at the first slopes of a step."""
        for j, slopes in enumerate(k):
            for step, slope in zip(self.steps, slopes, strict=True):
                step.slope(j, slope.data_ptr())

    def norm_of(self, y: Parts, plus: Parts, minus: Parts | None = None) -> float:
        """The norm of ``(plus - minus) / (atol + rtol |y|)``."""
        if self.norm != "rms":
            return super().norm_of(y, plus, minus)
        subtracted = [0] * len(plus) if minus is None else [m.data_ptr() for m in minus]
        values = [
            self.root(step.mean_square_of(at.data_ptr(), p.data_ptr(), m))
            for step, at, p, m in zip(self.steps, y, plus, subtracted, strict=True)
        ]
        return values[0] if len(values) == 1 else largest(values[: self.controlled])

    def error_at(self, y1: Parts, k: Parts) -> float:
        """The error norm of a step whose new state and last slope were computed by a tape; the rest is registered."""
        write, self.write, self.scratch = self.write, False, y1
        err = self.finish(k)[1]
        self.write, self.scratch, self.y1, self.y = write, (), (), ()
        self.k.clear()
        return err


def combine_into(out: Tensor, base: Tensor | None, vectors: Sequence[Tensor], weights: list[float]) -> None:
    """``out = base + sum_j weights[j] * vectors[j]`` in one pass; contiguous CPU tensors of one dtype."""
    pointer = 0 if base is None else base.data_ptr()
    _native.combine(
        out.element_size(), out.numel(), out.data_ptr(), pointer, [v.data_ptr() for v in vectors], weights,
        torch.get_num_threads(),
    )  # fmt: skip
