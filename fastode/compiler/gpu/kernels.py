"""The kernels of one program, made when they are first needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .settings import Settings


class Kernels:
    """Kernels whose source follows from a field and settings.

    Attributes:
        field: what their source is made of.
        is_amd: whether the device is one of AMD's.
    """

    is_amd = torch.version.hip is not None
    field: Any

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._kernels: dict[tuple[Any, ...], Any] = {}

    def kernel(self, make: Callable[..., Any], *key: Any) -> Any:
        """The kernel ``make(field, settings, *key)``, made once."""
        name = (make, *key)
        known = self._kernels.get(name)
        if known is None:
            known = self._kernels[name] = make(self.field, self.settings, *key)
        return known

    @property
    def launch_keywords(self) -> dict[str, int]:
        """Keywords of a launch for tiles of rows."""
        keywords = {"ROWS": self.settings.rows, "num_stages": 1, "enable_fp_fusion": True}
        if self.is_amd:
            # of 64 threads; more than four of them have fewer registers each
            return {**keywords, "num_warps": min(4, self.settings.warps)}
        # left to itself, ptxas spills registers rather than have fewer blocks at a time
        return {**keywords, "num_warps": self.settings.warps, "maxnreg": 255}
