"""Data movement and writes into tensors while a field is traced: both are done on the codes too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from .aten import MIXING, MOVES
from .codes import COMPUTED
from .lookups import look_up

if TYPE_CHECKING:
    from .tracer import Tracer


def move(tracer: Tracer, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Data movement, done on data and codes."""
    carried = MOVES[name]
    indices = [t for i, a in enumerate(args) if i not in carried for t in tree_leaves(a) if isinstance(t, Tensor)]
    if tracer.sort(indices) == COMPUTED:
        if name == "index_put" and len(indices) == 1 and indices[0].shape == args[0].shape and args[2].numel() == 1:
            with tracer:
                return torch.where(indices[0], args[2], args[0])
        if name in ("index", "index_select") and not any(i.dtype in (torch.bool, torch.uint8) for i in indices):
            return look_up(tracer, func, name, args)
        raise tracer.refusal("picks elements by what the state is: use `torch.where(condition, a, b)`")
    if name == "index_put" and len(args) > 3 and args[3]:
        raise tracer.refusal("adds to elements by index: add slices")
    if name == "as_strided" and not _same_memory_layout(args[0], tracer.codes_of(args[0])):
        raise tracer.refusal("looks at memory by strides: use indexing or `unfold`")
    # codes are on the CPU
    moved = tree_map_only(Tensor, Tensor.cpu, list(args))
    for i in carried:
        moved[i] = tree_map_only(Tensor, tracer.codes_of, args[i])
        if isinstance(args[i], int | float):
            moved[i] = int(tracer.number(args[i]))
    if name == "constant_pad_nd" and len(args) > 2:
        moved[2] = int(tracer.number(args[2]))
    out = func(*args, **kwargs)
    codes = func(*moved, **kwargs)
    for tensor, of_tensor in zip(*([out], [codes]) if isinstance(out, Tensor) else (out, codes), strict=True):
        tracer.known[id(tensor)] = (tensor, of_tensor)
    return out


def write(tracer: Tracer, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operator that changes a tensor: computed out of place, then the codes are copied."""
    written = [a for a, s in zip(args, func._schema.arguments, strict=False) if s.alias_info and s.alias_info.is_write]
    target = args[0]
    if name in MIXING:
        raise tracer.refusal(MIXING[name])
    if not (name.endswith("_") and len(written) == 1 and written[0] is target):
        raise tracer.refusal("writes into a tensor that is given to it: use the form that returns its result")
    if not any(isinstance(x, Tensor) for x in tree_leaves((args[1:], kwargs))) and tracer.counts(target):
        return func(*args, **kwargs)
    codes = tracer.codes_of(target)
    if torch.Tag.inplace_view in func.tags:  # the shape changes, no element does
        func(codes, *args[1:], **kwargs)
        return func(*args, **kwargs)
    outlives = tracer.outlives.get(codes.untyped_storage().data_ptr())
    if outlives is not None:
        if outlives.endswith("num_batches_tracked"):
            raise tracer.refusal("counts batches: batch normalisation " + MIXING["native_batch_norm"])
        raise tracer.refusal(f"changes {outlives} in place, which outlives the call: a program has no memory")
    if name in ("copy_", "fill_"):
        _check_dtypes(tracer, target, args[1])
        source = tracer.codes_of(args[1]) if isinstance(args[1], Tensor) else tracer.number(args[1])
        func(*args, **kwargs)
        codes.copy_(source)
    elif name == "zero_":
        func(*args, **kwargs)
        codes.zero_()
    else:
        functional = getattr(getattr(torch.ops.aten, name[:-1], None), func._overloadname, None)
        if functional is None:
            raise tracer.refusal("changes a tensor in place in a way that has no rule in the field compiler")
        with tracer:
            result = functional(*args, **kwargs)
        _check_dtypes(tracer, target, result)
        target.copy_(result)
        codes.copy_(tracer.codes_of(result))
    return target


def _check_dtypes(tracer: Tracer, target: Tensor, source: Any) -> None:
    """Refuse a write that would change values: numbers into a tensor of integers or of masks."""
    if isinstance(source, Tensor) and source.dtype != target.dtype and not target.is_floating_point():
        raise tracer.refusal(f"writes {source.dtype} into {target.dtype}; a program computes in the state's dtype")


def _same_memory_layout(tensor: Tensor, codes: Tensor) -> bool:
    return tensor.stride() == codes.stride() and tensor.storage_offset() == codes.storage_offset()
