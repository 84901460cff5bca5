"""An attempt as a CUDA graph: one launch for all of its kernels, the field's too.

A graph repeats what the field did when it was captured: the kernels, but nothing that Python did (counters, branches,
printing). Only the user knows whether that is all there is, and says so with ``options={"cuda_graph": True}``. What an
attempt reads and writes stays where it is, as a graph needs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

#: attempts before a graph pays: capturing one takes about as long as queueing two
WORTH_CAPTURING = 4


class Repeated:
    """An attempt that is captured the first time it is called, and launched as a graph from then on.

    Attributes:
        reason: why there is no graph, or an empty string.
    """

    def __init__(self, attempt: Callable[[], None]) -> None:
        self.attempt = attempt
        self.reason = ""
        self._replay: Callable[[], None] | None = None

    @property
    def ready(self) -> bool:
        """Whether it was captured, or found that it cannot be."""
        return self._replay is not None

    def __call__(self) -> None:
        if self._replay is None:
            try:
                self._replay = captured(self.attempt)
            except RuntimeError as error:
                # a field that waits for the device, or allocates in a way that cannot be repeated
                self.reason = f"no CUDA graph: {str(error).splitlines()[0]}"
                self._replay = self.attempt
        self._replay()


def captured(attempt: Callable[[], None]) -> Callable[[], None]:
    """What launches the kernels of ``attempt`` again; capturing does not execute them.

    Raises:
        RuntimeError: it does something that cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        attempt()
    return graph.replay
