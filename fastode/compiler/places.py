"""Where a function keeps its tensors and numbers, so that what is put in their places later is seen.

A parameter is remembered as (``module._parameters``, name): an optimiser may replace it, ``torch.func.functional_call``
does. Likewise buffers, attributes of objects, global variables and variables of enclosing functions.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: objects looked at in one search; who holds more than that does not hold it for the field
_MOST_OBJECTS = 20_000
#: of a list or a dictionary that a field reads one by one
_MOST_ENTRIES = 256


@dataclass(frozen=True)
class Place:
    """``container[key]`` is a tensor.

    Attributes:
        name: for messages, such as ``net.0.weight``.
    """

    container: Any
    key: Any
    name: str

    def get(self) -> Any:
        """What is there now."""
        return self.container[self.key]

    def put(self, value: Any) -> None:
        """Have it hold something else."""
        self.container[self.key] = value


@contextlib.contextmanager
def holding(places: Sequence[Place], tensors: Sequence[Tensor]) -> Iterator[None]:
    """Each place holds another tensor for the time being."""
    before = [place.get() for place in places]
    try:
        for place, tensor in zip(places, tensors, strict=True):
            place.put(tensor)
        yield
    finally:
        for place, tensor in zip(places, before, strict=True):
            place.put(tensor)


#: what a program has written into it
Plain = bool | int | float | complex | str | None


@dataclass(frozen=True)
class Content:
    """``container[key]`` was a number or the like, a module, a function or another object."""

    container: Any
    key: Any
    value: Any

    def is_still_there(self) -> bool:
        """Whether it has not become another one; equal numbers are the same."""
        try:
            now = self.container[self.key]
        except (LookupError, ValueError):  # it is gone, or the variable has no value
            return False
        if now is self.value:
            return True
        return isinstance(now, Plain) and type(now) is type(self.value) and bool(now == self.value)


class _Cell:
    """A variable of an enclosing function, as a container."""

    def __init__(self, cell: types.CellType) -> None:
        self.cell = cell

    def __getitem__(self, key: Any) -> Any:
        return self.cell.cell_contents

    def __setitem__(self, key: Any, value: Any) -> None:
        self.cell.cell_contents = value


class Places:
    """What is within reach of a function: by its modules, variables, defaults, bound arguments, and the methods that it
    names."""

    def __init__(self, func: Callable[..., Any]) -> None:
        #: by the tensor's identity; the tensors are kept, so that no other gets the same identity
        self.found: dict[int, tuple[Tensor, Place]] = {}
        self._seen: dict[int, Any] = {}
        #: what is no tensor, and the names that occur in the code that may look it up
        self._contents: list[Content] = []
        self._names: set[str] = set()
        #: of the objects; a dictionary keeps their order
        self._classes: dict[type, None] = {}
        waiting: list[tuple[Any, str]] = [(func, "")]
        while waiting and len(self._seen) < _MOST_OBJECTS:
            waiting.extend(self._look_into(*waiting.pop(0)))
            if not waiting:
                waiting = [(method, "") for method in self._named_methods() if id(method) not in self._seen]

    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [tensor for tensor, _ in self.found.values()]

    def modules(self) -> list[nn.Module]:
        """The modules among what was looked at."""
        return [thing for thing in self._seen.values() if isinstance(thing, nn.Module)]

    def contents(self) -> list[Content]:
        """What the function may read beside tensors: variables of enclosing functions, attributes and global variables
        that code within reach names, and what lists and dictionaries hold that are among these."""
        read: set[int] = set()
        found = []
        for c in self._contents:  # holders come before what they hold
            holder = c.container if id(c.container) in self._seen else None
            if holder is not None:
                may_be_read = id(holder) in read and len(holder) <= _MOST_ENTRIES
            else:
                bound = isinstance(c.container, _Cell | tuple)  # a tuple of arguments or defaults
                may_be_read = bound or (c.key in self._names and c.key != "training")
            if may_be_read:
                read.add(id(c.value))
                if not isinstance(c.container, tuple):
                    found.append(c)
        return found

    def of_rows(self, rows: int, dtype: torch.dtype) -> tuple[Place, ...]:
        """Where tensors are kept that may have an entry for each of ``rows`` rows; a parameter has not."""
        return tuple(
            place
            for tensor, place in self.found.values()
            if tensor.ndim > 0
            and len(tensor) == rows
            and tensor.dtype == dtype
            and not isinstance(tensor, nn.Parameter)
            and not isinstance(place.container, tuple)
        )

    def of(self, tensor: Tensor) -> Place:
        """Where a tensor is kept; one that is nowhere is kept here."""
        found = self.found.get(id(tensor))
        if found is None:
            shape = list(tensor.shape)
            found = self.found[id(tensor)] = (tensor, Place([tensor], 0, f"a tensor of shape {shape}"))
        return found[1]

    def _named_methods(self) -> Iterator[types.FunctionType]:
        """Methods and properties of objects within reach that code within reach names."""
        for attributes in map(vars, self._classes):
            for name in self._names & attributes.keys():
                found = attributes[name]
                found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
                if isinstance(found, types.FunctionType):
                    yield found

    def _look_into(self, thing: Any, name: str) -> Iterator[tuple[Any, str]]:
        """Objects in reach of ``thing``; its tensors are noted."""
        if id(thing) in self._seen or isinstance(thing, _PLAIN):
            return
        self._seen[id(thing)] = thing
        if isinstance(thing, types.FunctionType) and _is_the_users(thing):
            self._names.update(_names(thing.__code__))
        self._classes.update(dict.fromkeys(c for c in type(thing).__mro__ if _is_the_users(c)))
        for container, key, value, label in _entries(thing):
            path = f"{name}.{label}" if name and label else name or label
            if isinstance(value, Tensor):
                self.found.setdefault(id(value), (value, Place(container, key, path)))
            else:
                if not isinstance(value, _FIXED):
                    self._contents.append(Content(container, key, value))
                yield value, path


_LIBRARIES = ("torch", "fastode", "numpy", "builtins")
#: what nobody puts another in the place of
_FIXED = (type, types.ModuleType, types.BuiltinFunctionType)
_PLAIN = (str, bytes, int, float, complex, type(None), Tensor, *_FIXED)
_Entry = tuple[Any, Any, Any, str]


def _entries(thing: Any) -> Iterator[_Entry]:
    """``(container, key, container[key], label)`` for what an object holds."""
    if isinstance(thing, types.FunctionType):
        yield from _of_function(thing)
    elif isinstance(thing, types.MethodType):
        yield [thing.__self__], 0, thing.__self__, ""
        yield [thing.__func__], 0, thing.__func__, ""
    elif isinstance(thing, functools.partial):
        yield [thing.func], 0, thing.func, ""
        for i, value in enumerate(thing.args):
            yield thing.args, i, value, f"args[{i}]"
        yield from ((thing.keywords, k, v, k) for k, v in thing.keywords.items())
    elif isinstance(thing, dict):
        yield from ((thing, k, v, str(k)) for k, v in list(thing.items()))
    elif isinstance(thing, list | tuple):
        yield from ((thing, i, v, str(i)) for i, v in enumerate(thing))
    elif isinstance(thing, nn.Module):
        yield from _of_module(thing)
    elif hasattr(thing, "__dict__") and not type(thing).__module__.startswith("torch."):
        yield from ((vars(thing), k, v, k) for k, v in list(vars(thing).items()))
        yield from _of_class(thing, "__call__")


def _of_function(function: types.FunctionType) -> Iterator[_Entry]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield _Cell(cell), 0, cell.cell_contents, name
        except ValueError:  # a variable that has no value yet
            continue
    if _is_the_users(function):
        variables = function.__globals__
        yield from ((variables, n, variables[n], n) for n in _global_names(function.__code__) if n in variables)
    for i, value in enumerate(function.__defaults__ or ()):
        yield function.__defaults__, i, value, f"default {i}"
    yield from ((function.__kwdefaults__, k, v, k) for k, v in (function.__kwdefaults__ or {}).items())
    if wrapped := getattr(function, "__wrapped__", None):
        yield [wrapped], 0, wrapped, ""


def _of_module(module: nn.Module) -> Iterator[_Entry]:
    for held in (module._parameters, module._buffers, module._modules):
        yield from ((held, k, v, k) for k, v in held.items())
    for k, v in vars(module).items():
        if k not in ("_parameters", "_buffers", "_modules"):
            # a module's hooks are dictionaries and are looked into; the label of an attribute is its name
            yield vars(module), k, v, k
    yield from _of_class(module, "forward")


def _of_class(thing: Any, method: str) -> Iterator[_Entry]:
    """The function that is called when the object is."""
    function = getattr(type(thing), method, None)
    if isinstance(function, types.FunctionType):
        yield [function], 0, function, ""


def _is_the_users(thing: types.FunctionType | type) -> bool:
    """Functions and classes of torch and other libraries reach far and hold nothing of the user's."""
    return thing.__module__ is not None and thing.__module__.split(".")[0] not in _LIBRARIES


def _names(code: types.CodeType) -> list[str]:
    """Names of global variables and attributes that some code may use, with those of the functions inside it."""
    return [name for c in _with_inner(code) for name in c.co_names]


def _global_names(code: types.CodeType) -> list[str]:
    """Those of global variables alone."""
    instructions = (i for c in _with_inner(code) for i in dis.get_instructions(c))
    return list(dict.fromkeys(i.argval for i in instructions if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")))


def _with_inner(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for c in code.co_consts:
        if isinstance(c, types.CodeType):
            yield from _with_inner(c)
