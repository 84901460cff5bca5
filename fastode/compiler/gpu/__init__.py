"""The GPU engine of field programs: Triton kernels that keep a tile of rows in registers for a whole solve.

One file of Triton source is written for each program and kind of solve (:mod:`.rows`, :mod:`.grid`, :mod:`.step`); the
field's operators stand in it once, inside the loop over the stages. Nothing here imports Triton before a kernel is
made.
"""

from .refusal import NotFused

__all__ = ["NotFused"]
