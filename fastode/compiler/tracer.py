"""Follows a vector field, operator by operator, and builds its program.

The field runs on real tensors. Beside each one is a tensor of codes (:mod:`.codes`) that says which scalars of the
program its elements are. Operators that only move data are done on the codes as well; views of codes share memory as
views of the data do, so that a write into a slice is a write into a slice of codes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import CannotCompile
from .aten import ELEMENTWISE, FACTORIES, IGNORED, MIXING, MOVES
from .codes import COMPUTED, CONSTANT, NUMBER, RowsMixed, Scalars, gathered_lines, like
from .constants import Constants, Node
from .decompositions import ELEMENTWISE_DECOMPOSITIONS
from .materials import Materials
from .moves import move, write
from .places import Place, Places
from .products import PRODUCTS
from .program import Builder
from .reductions import REDUCTIONS
from .refusal import Draws, NoRule
from .source import user_line

_DECOMPOSITIONS = ELEMENTWISE_DECOMPOSITIONS | REDUCTIONS
_RULES = frozenset((*ELEMENTWISE, *PRODUCTS, *_DECOMPOSITIONS))
_COMPOSITE = "CompositeImplicitAutograd"
#: numbers of a tensor made inside the field that become literals; one with more is a constant
_MOST_LITERALS = 64
#: integers are numbers of the state's dtype, to index with; of these operators the result is as whole as in torch
_WHOLE = (torch.int32, torch.int64)
_WHOLE_STAY_WHOLE = frozenset(("abs", "add", "maximum", "minimum", "mul", "neg", "sign", "sub", "where"))
_DEPENDENT = frozenset((torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape))


class Tracer(TorchDispatchMode):
    """Builds a program while it is the active mode.

    Attributes:
        rows: of the example batch; a prime that divides no size of the field's own. 1 for a single state.
        dtype: of the state.
        known: tensors by identity (kept, so that no other gets it), with their codes.
        outlives: memory of codes that the field must not write to, and what it is.
        unreadable: tensors by identity that refuse the field once it uses them.
        used: the field's tensors that were met, and where they are kept.
    """

    def __init__(
        self,
        builder: Builder,
        constants: Constants,
        places: Places,
        rows: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.builder = builder
        self.rows = rows
        self.dtype = dtype
        self.scalars = Scalars(builder)
        self.materials = Materials(self.scalars, constants, device)
        self._constants = constants
        self._places = places
        self.known: dict[int, tuple[Tensor, Tensor]] = {}
        self.outlives: dict[int, str] = {}
        self.unreadable: dict[int, tuple[Tensor, CannotCompile]] = {}
        self._mixing: list[CannotCompile] = []
        self._operators: list[str] = []
        self.used: list[tuple[Tensor, Place]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch would import its compiler to keep it out of here, which takes seconds
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self.named(str(func)):
            try:
                return self._run(func, args, kwargs or {})
            except RowsMixed as mixed:
                error = self.refusal(f"{mixed}: a program sees one row at a time")
                self._mixing.append(error)
            except CannotCompile as refusal:
                error = refusal
        inside = bool(self._operators) or func._schema.is_mutable
        if inside or not any(error is e for e in self._mixing):
            raise error from None
        # not yet: `torch.autograd.grad(energy.sum(), y)` never looks at the sum; `if y.max() > 1` is about the branch
        out = func(*args, **(kwargs or {}))
        self.unreadable.update({id(x): (x, error) for x in tree_leaves(out) if isinstance(x, Tensor)})
        return out

    def give(self, tensor: Tensor, codes: Tensor, outlives: str = "") -> Tensor:
        """Note the codes of a tensor; ``outlives`` says what it is if it must not be written to."""
        laid_out = like(tensor, codes)
        self.known[id(tensor)] = (tensor, laid_out)
        if outlives and tensor.numel():
            self.outlives[laid_out.untyped_storage().data_ptr()] = outlives
        return tensor

    def give_constant(self, tensor: Tensor, node: Node, outlives: str = "") -> Tensor:
        """Note that a tensor is a constant."""
        return self.give(tensor, self.scalars.of(self.builder.vector(node.slot, tensor.numel())), outlives)

    def codes_of(self, tensor: Tensor) -> Tensor:
        """Codes of a tensor's shape; a tensor never seen before is one of the field's own."""
        known = self.known.get(id(tensor))
        if known is None:
            if id(tensor) in self.unreadable:
                raise self.unreadable[id(tensor)][1]
            place = self._places.of(tensor)
            if tensor.layout is not torch.strided or tensor.is_complex() or tensor.is_quantized:
                raise self.refusal(f"uses {place.name} ({tensor.dtype}, {tensor.layout}), which is not real and dense")
            self.used.append((tensor, place))
            self.give_constant(tensor, self._constants.leaf(place), place.name)
            known = self.known[id(tensor)]
        return known[1]

    def computes(self, tensor: Tensor) -> bool:
        """Whether a tensor is known to depend on the state or the time."""
        return id(tensor) in self.known and self.sort([tensor]) == COMPUTED

    def counts(self, tensor: Tensor) -> bool:
        """Whether a tensor that is about to be changed by numbers is one of the field's own that it has not read.

        It may be a counter of calls, so that is let happen, as it is in Python's numbers; but nothing may read it then.
        """
        if id(tensor) in self.known or id(tensor) not in self._places.found:
            return False
        name = self._places.of(tensor).name
        if name.endswith("num_batches_tracked"):  # of a batch normalisation, which a refusal speaks about
            return False
        error = self.refusal(f"changes {name}, which the field reads in the same call: a program has no memory")
        self.unreadable[id(tensor)] = (tensor, error)
        return True

    def sort(self, tensors: Sequence[Tensor]) -> int:
        """The most that any of some tensors is."""
        return max((self.scalars.sort(self.codes_of(t)) for t in tensors), default=NUMBER)

    def value(self, scalars: Sequence[int], broadcast: bool = False) -> int:
        """The program's value with these features; of one feature if all are the same and ``broadcast``."""
        return self.materials.value(scalars, broadcast)

    def matrix(self, codes: Tensor) -> tuple[int, bool]:
        """The constant that multiplies columns from the left where ``codes`` [n, m] does rows from the right."""
        return self.materials.matrix(codes)

    def per_line(self, codes: Tensor, width: int, emit: Callable[[list[tuple[int, ...]]], Tensor]) -> Tensor:
        """Codes [P, width] of results that each need one line of ``codes`` [P, K].

        Args:
            emit: adds operators for U lines of scalars; returns the scalars [U, width] of their results.
        """
        result = torch.zeros(codes.shape[0], width, dtype=torch.int64)
        for lines in gathered_lines(codes, self.rows):
            scalars = emit(lines.unique).expand(len(lines.unique), width)
            result[lines.positions] = scalars[lines.choice] + lines.rows[:, None]
        return result

    @contextlib.contextmanager
    def named(self, operator: str) -> Iterator[None]:
        """What runs is part of an operator, whose name a refusal gives."""
        self._operators.append(operator)
        try:
            yield
        finally:
            self._operators.pop()

    def refusal(self, reason: str, kind: type[CannotCompile] = CannotCompile) -> CannotCompile:
        """The error for the operator at hand."""
        return kind(reason, self._operators[0] if self._operators else None, user_line())

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        namespace, name = func._schema.name.split("::")
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(t.is_meta for t in tensors):  # torch asks for shapes only
            return func(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags and name not in _RULES:
            raise self.refusal(
                "draws random numbers: draw them before the solve and pass them as an argument, or keep those of the "
                "first call",
                Draws,
            )
        if name in IGNORED:
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            return write(self, func, name, args, kwargs)
        if not tensors or name in FACTORIES or name.startswith("lift_fresh"):
            return self._fresh(func(*args, **kwargs), "empty" in name)
        if namespace == "aten" and name in MOVES:
            return move(self, func, name, args, kwargs)
        if name not in _RULES and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE):
            # torch takes these apart itself, but not below autograd, where decompositions run
            with self:
                return func.decompose(*args, **kwargs)
        reads = _DEPENDENT.intersection(func.tags)
        if reads and any(id(t) in self.unreadable for t in tensors):
            raise self._reads(COMPUTED)
        sort = self.sort(tensors)
        if reads:
            whole = not any(t.is_floating_point() for t in tensors)
            if sort != NUMBER and not (sort == CONSTANT and whole):
                raise self._reads(sort)
            return self._fresh(func(*args, **kwargs), False)
        if sort == NUMBER:
            return self._fresh(func(*args, **kwargs), False)
        if sort == CONSTANT and not any(self._has_rows(t) for t in tensors):
            return self._record(func, args, kwargs)
        return self._compute(func, name, args, kwargs)

    def _compute(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operator of torch's with a rule."""
        if name in MIXING and any(a is True for a in args):
            raise self.refusal(MIXING[name])
        if name == "_to_copy":
            return self._cast(func, args, kwargs)
        rule = ELEMENTWISE.get(name)
        if rule is not None and (found := rule(*args, **kwargs)) is not None:
            return self._elementwise(func(*args, **kwargs), *found)
        if name in PRODUCTS:
            if kwargs.get("dtype", self.dtype) != self.dtype or not _is_floating(args[0]):
                raise self.refusal(f"computes in another dtype than the state's, {self.dtype}: use `.to(y)` before")
            return PRODUCTS[name](self, *args, **{k: v for k, v in kwargs.items() if k != "dtype"})
        if name in _DECOMPOSITIONS:
            try:
                with self:
                    return _DECOMPOSITIONS[name](*args, **kwargs)
            except NoRule as reason:
                raise self.refusal(str(reason)) from None
        raise self.refusal("has no rule in the field compiler")

    def _elementwise(self, out: Tensor, name: str, inputs: tuple[Any, ...], numbers: tuple[float, ...]) -> Tensor:
        whole = out.dtype in _WHOLE and name in _WHOLE_STAY_WHOLE
        if out.dtype not in (self.dtype, torch.bool) and not whole:
            raise self.refusal(f"computes in {out.dtype}, but the state is {self.dtype}: use `.to(y)` on its inputs")
        if out.dtype == torch.bool and name == "add":
            name = "maximum"
        operands = [self.codes_of(x) if isinstance(x, Tensor) else self.number(x) for x in inputs]
        lines = torch.stack([c.expand(out.shape) for c in operands], -1).reshape(-1, len(operands))

        def emit(unique: list[tuple[int, ...]]) -> Tensor:
            values = [self.value([line[k] for line in unique], broadcast=True) for k in range(len(operands))]
            return self.scalars.of(self.builder.elementwise(name, *values, data=numbers))[:, None]

        return self.give(out, self.per_line(lines, 1, emit))

    def number(self, x: float) -> Tensor:
        """0-dim; the code of a number."""
        return torch.tensor(self.scalars.number(float(x)))

    def _cast(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        (x,) = args
        out = func(x, **kwargs)
        # 0 and 1 are the same in every dtype, and so are integers to index with
        if x.dtype in (out.dtype, torch.bool) or (x.dtype in _WHOLE and out.dtype in (*_WHOLE, self.dtype)):
            return self.give(out, self.codes_of(x))
        if out.dtype in _WHOLE and x.dtype == self.dtype:
            with self:
                return self.give(out, self.codes_of(torch.trunc(x)))
        if out.dtype == torch.bool:
            return self._elementwise(out, "ne", (x, 0.0), ())
        raise self.refusal(f"changes the dtype from {x.dtype} to {out.dtype}; a program computes in the state's")

    def _record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What torch computes from constants for every solve."""

        def as_node(tensor: Tensor) -> Node | Tensor:
            return self.materials.constant(self.codes_of(tensor), tensor.dtype)

        out = func(*args, **kwargs)
        args, kwargs = tree_map_only(Tensor, as_node, (args, kwargs))
        nodes = self._constants.record(func, args, kwargs)
        for tensor, node in zip([out] if isinstance(out, Tensor) else out, nodes, strict=True):
            self.give_constant(tensor, node)
        return out

    def _fresh(self, out: Any, undefined: bool) -> Any:
        """Note tensors whose numbers are known: they are made inside the field."""
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and not tensor.is_meta:
                numbers, choice = torch.unique(tensor.detach().cpu(), return_inverse=True)
                if undefined:
                    # nobody may read what memory holds by chance
                    self.give(tensor, self.number(float("nan")).expand(tensor.shape))
                elif numbers.is_complex() or len(numbers) > _MOST_LITERALS:
                    place = self._places.of(tensor)
                    self.give_constant(tensor, self._constants.leaf(place))
                else:
                    scalars = torch.tensor([self.scalars.number(x) for x in numbers.tolist()], dtype=torch.int64)
                    self.give(tensor, scalars[choice] if len(scalars) else choice)
        return out

    def _has_rows(self, tensor: Tensor) -> bool:
        return self.rows > 1 and any(n and n % self.rows == 0 for n in tensor.shape)

    def _reads(self, sort: int) -> CannotCompile:
        if sort == CONSTANT:
            return self.refusal("reads a parameter as a number, which would not change with it: keep it a tensor")
        return self.refusal(
            "reads a value of the state or of the time, to branch on it perhaps: use `torch.where(condition, a, b)`"
        )


def _is_floating(x: Any) -> bool:
    return not isinstance(x, Tensor) or x.is_floating_point()
