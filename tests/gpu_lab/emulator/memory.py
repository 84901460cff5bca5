"""The memories a kernel sees, every access checked. Addresses are the emulator's own and not those of this process.

Tensors lie far apart, so that an access beyond the end of one never lands in another by chance. Two arguments that are
views of one storage keep their distance, and each is bounded by its own extent.
"""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .fault import EmulationFault
from .program import Instruction

Where = bool | NDArray[np.bool_]
"""The lanes that execute: True for all of them."""
Addresses = NDArray[np.uint64]

SHARED_WINDOW, LOCAL_WINDOW = 1 << 60, 1 << 61
"""Where the shared memory of the block and the local memory of a thread begin in generic addresses."""
APART = 1 << 40
"""The distance of the begins of two storages."""
_KEPT_ALIGNMENT = 256


@dataclass
class Region:
    """``content`` lies at ``base``; a store to it is a fault unless it is ``writable``."""

    name: str
    base: int
    content: NDArray[np.uint8]
    writable: bool = True
    views: dict[str, NDArray[Any]] = field(default_factory=dict)

    def typed(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The content as elements of ``dtype``, from its begin; a rest too small for one is left out."""
        view = self.views.get(dtype.str)
        if view is None:
            whole = self.content.size // dtype.itemsize * dtype.itemsize
            view = self.views[dtype.str] = self.content[:whole].view(dtype)
        return view


class Memory:
    """Regions by address. Counts the bytes that instructions load and store."""

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self.loaded = self.stored = 0
        self._bases: list[int] = []

    def add(self, region: Region) -> None:
        self.regions.append(region)
        self.regions.sort(key=lambda r: (r.base, r.content.size))
        self._bases = [r.base for r in self.regions]

    def active(self, addresses: Addresses, where: Where, instruction: Instruction) -> Addresses:
        """The addresses of the lanes that execute."""
        return addresses if where is True else addresses[where]

    def load(
        self, addresses: Addresses, where: Where, dtype: np.dtype[Any], count: int, instruction: Instruction
    ) -> list[NDArray[Any]]:
        """``count`` neighbouring elements for each lane that executes.

        Raises:
            EmulationFault: An address is in no region, or not aligned to all ``count`` elements.
        """
        found = self._find(self.active(addresses, where, instruction), dtype, count, instruction, store=False)
        # threads that ask for the same element in one instruction share what is moved
        self.loaded += dtype.itemsize * count * sum(np.unique(index).size for _, index, _ in found)
        if len(found) == 1:
            view, index, _ = found[0]
            return [view[index + k] if k else view[index] for k in range(count)]
        size = sum(index.size for _, index, _ in found)
        result = [np.empty(size, dtype) for _ in range(count)]
        for view, index, lanes in found:
            for k in range(count):
                result[k][lanes] = view[index + k]
        return result

    def store(
        self, addresses: Addresses, where: Where, values: Sequence[NDArray[Any]], instruction: Instruction
    ) -> None:
        """Stores one value of each of ``values`` for each lane that executes. Raises as :meth:`load` does."""
        found = self._find(
            self.active(addresses, where, instruction), values[0].dtype, len(values), instruction, store=True
        )
        for view, index, lanes in found:
            self.stored += values[0].dtype.itemsize * len(values) * index.size
            for k, value in enumerate(values):
                view[index + k] = value if lanes is None else value[lanes]

    def _find(
        self, addresses: Addresses, dtype: np.dtype[Any], count: int, instruction: Instruction, store: bool
    ) -> list[tuple[NDArray[Any], NDArray[np.intp], NDArray[np.intp] | None]]:
        """Views, the indices into them, and the lanes these belong to (None: all)."""
        bytes_ = dtype.itemsize * count
        if addresses.size == 0:
            return [(np.empty(0, dtype), np.empty(0, np.intp), None)]
        if int(np.bitwise_or.reduce(addresses)) & (bytes_ - 1):
            wrong = int(addresses[addresses & np.uint64(bytes_ - 1) != 0][0])
            raise EmulationFault(f"misaligned access to {bytes_} bytes at {self.describe(wrong)}, {instruction}")
        first = bisect_right(self._bases, int(addresses[0])) - 1
        if first >= 0:
            region = self.regions[first]
            offset = addresses - np.uint64(region.base)
            if region.base % dtype.itemsize == 0 and int(offset.max()) + bytes_ <= region.content.size:
                self._check_writable(region, store, instruction)
                return [(region.typed(dtype), (offset // np.uint64(dtype.itemsize)).astype(np.intp), None)]
        return self._find_each(addresses, dtype, bytes_, instruction, store)

    def _find_each(
        self, addresses: Addresses, dtype: np.dtype[Any], bytes_: int, instruction: Instruction, store: bool
    ) -> list[tuple[NDArray[Any], NDArray[np.intp], NDArray[np.intp] | None]]:
        """As :meth:`_find`, for addresses in several regions."""
        left = np.ones(addresses.size, bool)
        found: list[tuple[NDArray[Any], NDArray[np.intp], NDArray[np.intp] | None]] = []
        for region in self.regions:
            offset = addresses - np.uint64(region.base)
            # a difference below zero has wrapped to a large number
            inside = left & (offset < np.uint64(region.content.size))
            inside &= offset + np.uint64(bytes_) <= np.uint64(region.content.size)
            if not inside.any():
                continue
            if region.base % dtype.itemsize:
                raise NotImplementedError(f"elements of {dtype} in {region.name}, aligned otherwise, {instruction}")
            self._check_writable(region, store, instruction)
            index = (offset[inside] // np.uint64(dtype.itemsize)).astype(np.intp)
            found.append((region.typed(dtype), index, np.flatnonzero(inside)))
            left &= ~inside
        if left.any():
            kind = "store" if store else "load"
            wrong = self.describe(int(addresses[left][0]))
            raise EmulationFault(f"{kind} out of bounds: {bytes_} bytes at {wrong}, {instruction}")
        return found

    def _check_writable(self, region: Region, store: bool, instruction: Instruction) -> None:
        if store and not region.writable:
            raise EmulationFault(f"store to {region.name}, which is constant, {instruction}")

    def describe(self, address: int) -> str:
        """An address in words, by the nearest region before it, or the first one."""
        if not self.regions:
            return f"address {address:#x} (no memory was passed)"
        region = self.regions[max(bisect_right(self._bases, address) - 1, 0)]
        if abs(address - region.base) >= APART // 2:
            return f"address {address:#x}, near no memory that was passed"
        return f"byte {address - region.base} of {region.name}, which has {region.content.size} bytes"


class GlobalMemory(Memory):
    """The tensors that a launch passes, and the tables of the program."""

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, int] = {}
        self._placed = 0

    def place(self, name: str, content: NDArray[np.uint8], writable: bool = True) -> int:
        """Gives ``content`` an address of its own."""
        self._placed += 1
        self.add(Region(name, self._placed * APART, content, writable))
        return self._placed * APART

    def forget_tensors(self, tables: int) -> None:
        """Leaves the first ``tables`` regions, which are those of the program."""
        self.regions, self._bases = self.regions[:tables], self._bases[:tables]
        self._storages, self._placed = {}, tables
        self.loaded = self.stored = 0

    def bind(self, name: str, tensor: torch.Tensor) -> int:
        """The address of the first element of ``tensor``, whose storage the kernel changes in place.

        Raises:
            ValueError: The tensor is not in this process's memory.
        """
        if tensor.device.type != "cpu":
            raise ValueError(f"{name} is on {tensor.device}; the emulator takes tensors on the CPU.")
        storage = tensor.untyped_storage()
        key = storage.data_ptr() if storage.nbytes() else id(tensor)
        if key not in self._storages:
            self._placed += 1
            self._storages[key] = self._placed * APART + storage.data_ptr() % _KEPT_ALIGNMENT
        content = _bytes_at(storage.data_ptr(), storage.nbytes())
        begin = int(tensor.storage_offset()) * tensor.element_size()
        extent = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        end = begin + (extent * tensor.element_size() if tensor.numel() else 0)
        label = f"{name} ({str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)})"
        self.add(Region(label, self._storages[key] + begin, content[begin:end]))
        return self._storages[key] + begin


def _bytes_at(address: int, size: int) -> NDArray[np.uint8]:
    """Memory of this process as an array. No operator of torch is involved, so none can be watched or recorded."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)) if size else np.empty(0, np.uint8)


class LocalMemory(Memory):
    """``size`` bytes of every thread's own, addressed from 0."""

    def __init__(self, size: int, threads: int) -> None:
        super().__init__()
        self.size = -(-size // 16) * 16
        self._begins = np.arange(threads, dtype=np.uint64) * np.uint64(self.size)
        self.add(Region("local memory of the block's threads", 0, np.full(self.size * threads, 0xFF, np.uint8)))

    def active(self, addresses: Addresses, where: Where, instruction: Instruction) -> Addresses:
        wrong = (addresses >= np.uint64(self.size)) & where
        if wrong.any():
            at = f"byte {int(addresses[wrong][0])} of local memory, which has {self.size} bytes"
            raise EmulationFault(f"access out of bounds: {at}, {instruction}")
        return super().active(addresses + self._begins, where, instruction)


class GenericMemory(Memory):
    """Addresses that may be of the global memory, of the block's shared memory or of a thread's local memory."""

    def __init__(self, global_: GlobalMemory, shared: Memory, local: LocalMemory) -> None:
        super().__init__()
        self._parts = ((0, global_), (SHARED_WINDOW, shared), (LOCAL_WINDOW, local))

    def _part(self, addresses: Addresses, where: Where, instruction: Instruction) -> tuple[int, Memory]:
        of_lane = np.searchsorted(np.array([SHARED_WINDOW, LOCAL_WINDOW], np.uint64), addresses, side="right")
        parts = np.unique(of_lane if where is True else of_lane[where])
        if parts.size != 1:
            raise NotImplementedError(f"one access to several kinds of memory, {instruction}")
        return self._parts[int(parts[0])]

    def load(
        self, addresses: Addresses, where: Where, dtype: np.dtype[Any], count: int, instruction: Instruction
    ) -> list[NDArray[Any]]:
        begin, memory = self._part(addresses, where, instruction)
        return memory.load(addresses - np.uint64(begin), where, dtype, count, instruction)

    def store(
        self, addresses: Addresses, where: Where, values: Sequence[NDArray[Any]], instruction: Instruction
    ) -> None:
        begin, memory = self._part(addresses, where, instruction)
        memory.store(addresses - np.uint64(begin), where, values, instruction)
