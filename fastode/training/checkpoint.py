"""Checkpoints: one safetensors file, with JSON in its header for what is no tensor. Loading runs no code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InvalidArgument

FORMAT = 1


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at ``path``; whoever reads it sees the old or the new ``content``, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def save_checkpoint(path: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Write ``tensors`` and JSON ``values`` to ``path``, atomically."""
    from safetensors.torch import save

    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, save(owned, {"fastode": json.dumps({"format": FORMAT, **values})}))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`save_checkpoint` wrote.

    Raises:
        InvalidArgument: no such file, damaged, or not one of fastode's.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InvalidArgument(f"{path}: there is no such checkpoint; train first, or name another run folder")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InvalidArgument(
            f"{path}: it is not a readable checkpoint ({error}); use another, or train again"
        ) from None
    if "fastode" not in header:
        raise InvalidArgument(f"{path}: this safetensors file was not written by `fastode train`")
    values: dict[str, Any] = json.loads(header["fastode"])
    if values.pop("format", None) != FORMAT:
        raise InvalidArgument(f"{path}: it was written by another version of fastode; train again with this one")
    return tensors, values
