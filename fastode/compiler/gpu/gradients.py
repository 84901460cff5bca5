"""Where the sums go that the constants receive at every stage.

A program of the kernel has a slice of its own in ``gradients``, to which it adds all its tiles, in a fixed order. The
sums over its steps are kept in registers (:attr:`Settings.keep_gradients`), or added to the slice at every stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from .settings import Settings


@dataclass(frozen=True)
class Block:
    """Elements of one constant's gradient.

    Attributes:
        place, mask: of the elements in the constant, as the source has it.
        shape: empty for a number.
    """

    constant: int
    place: str
    mask: str
    shape: str


@dataclass(frozen=True)
class Term:
    """What a block receives from one use of its constant.

    Attributes:
        use: number of the use; the blocks of one use are disjoint.
        value: as the source has it; the two factors where it is a product of tiles.
        names: the variables that it is made of.
    """

    block: Block
    use: int
    value: str
    names: tuple[str, ...]
    product: bool = False


@dataclass(frozen=True)
class Gradients:
    """The gradients of the constants.

    Attributes:
        terms: what a stage gives.
        sizes: elements of each constant that receives something, by its number, in order.
    """

    terms: list[Term]
    sizes: dict[int, int]
    settings: Settings
    dtype: str

    @property
    def count(self) -> int:
        """Elements of a slice."""
        return sum(map(_padded, self.sizes.values()))

    def first(self, constant: int) -> int:
        """Where a constant begins in a slice."""
        return sum(_padded(size) for c, size in self.sizes.items() if c < constant)

    def begin(self) -> list[str]:
        """Lines at the start of a kernel."""
        lines = [f"slice = gradients + tl.program_id(0).to(tl.int64) * {self.count}"] if self.terms else []
        if self.settings.keep_gradients:
            lines += [f"{total} = {self._zeros(block)}" for block, total in self._names.items()]
        return lines

    def begin_stage(self) -> list[str]:
        """Lines at the start of a stage in reverse."""
        return [] if self.settings.keep_gradients or not self.terms else ["slice_of_stage = slice + nothing"]

    def among(self, body: Sequence[str]) -> list[str]:
        """The lines of a stage with those that add what it gives.

        What a term is made of is used as soon as it is there, so that it need not be kept any longer.
        """
        defined = {line.split(" = ", 1)[0]: n for n, line in enumerate(body)}
        # what no line defines is known before the stage
        ready = [(max(defined.get(name, -1) for name in term.names), n) for n, term in enumerate(self.terms)]
        found: list[str] = []
        for at in range(-1, len(body)):
            found += body[max(at, 0) : at + 1]
            for n in (n for there, n in ready if there == at):
                found += self._add(n)
        if not self.settings.keep_gradients:
            small = [(n, term) for n, term in enumerate(self.terms) if not term.product]
            found += self._to_slice([(term.block, term.use, f"part_{n}") for n, term in small], "slice_of_stage")
        return found

    def end(self) -> list[str]:
        """Lines at the end of a kernel."""
        if not self.settings.keep_gradients:
            return []
        uses = {term.block: term.use for term in self.terms}
        return self._to_slice([(block, uses[block], total) for block, total in self._names.items()], "slice")

    @cached_property
    def _names(self) -> dict[Block, str]:
        """The variable of each block's sum."""
        found = dict.fromkeys(term.block for term in self.terms)
        return {block: f"gradient_{n}" for n, block in enumerate(found)}

    def _add(self, n: int) -> list[str]:
        """Lines that add a term to its sum, or a product to the slice, or that compute what will be added to it."""
        term = self.terms[n]
        if self.settings.keep_gradients:
            total = self._names[term.block]
            return [f"{total} = {self._plus(total, term)}"]
        if not term.product:
            return [f"part_{n} = {term.value}"]
        block, value = term.block, self._plus(self._zeros(term.block), term)
        earlier = any(x.product and x.block.constant == block.constant and x.use < term.use for x in self.terms)
        return [
            # of another use, which other threads have written; those of one use do not overlap
            *(["tl.debug_barrier()"] if earlier else []),
            f"place_of_part_{n} = {self._place(block, 'slice + nothing')}",
            f"part_{n} = {value}",
            # a block has at least as many elements as there are threads: each is of one
            f"tl.store(place_of_part_{n}, part_{n} + tl.load(place_of_part_{n}{_masked(block)}){_masked(block)})",
        ]

    def _to_slice(self, parts: Sequence[tuple[Block, int, str]], start: str) -> list[str]:
        """Lines that add variables to blocks in the slice.

        Several threads may hold one element, of which one writes it when all have read it. Blocks of different uses
        of a constant may overlap: they come one after the other.
        """
        lines = []
        rounds: dict[tuple[int, int], int] = {}
        for block, use, _ in parts:
            constant = block.constant
            rounds.setdefault((constant, use), sum(c == constant for c, _ in rounds))
        for n in range(max(rounds.values(), default=-1) + 1):
            now = [(block, name) for block, use, name in parts if rounds[block.constant, use] == n]
            lines.append("tl.debug_barrier()")
            for block, name in now:
                lines.append(f"place_of_{name} = {self._place(block, start)}")
                lines.append(f"{name} += tl.load(place_of_{name}{_masked(block)})")
            lines.append("tl.debug_barrier()")
            lines += [f"tl.store(place_of_{name}, {name}{_masked(block)})" for block, name in now]
        return lines

    def _place(self, block: Block, start: str) -> str:
        return f"{start} + {self.first(block.constant)} + {block.place}"

    def _plus(self, total: str, term: Term) -> str:
        if not term.product:
            return f"{total} + {term.value}"
        precision = "ieee" if self.dtype == "tl.float64" else self.settings.precision
        return f'tl.dot({term.value}, {total}, input_precision="{precision}", out_dtype={self.dtype})'

    def _zeros(self, block: Block) -> str:
        return f"tl.zeros([{block.shape}], {self.dtype})" if block.shape else f"tl.full([], 0.0, {self.dtype})"


def _padded(size: int) -> int:
    """Places of several elements are read at once where they begin at a multiple of 16."""
    return -(-size // 16) * 16


def _masked(block: Block) -> str:
    return f", mask={block.mask}" if block.mask else ""
