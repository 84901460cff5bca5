"""An attempt as a CUDA graph: one launch for all of its kernels, the field's too.

A graph repeats what the field did when it was captured: the kernels, but nothing that Python did (counters, branches,
printing). That this is all there is can be seen of a field that the compiler has traced; of others only the user knows
it, and says so with ``options={"cuda_graph": True}``. What an attempt reads and writes stays where it is, as a graph
needs.
"""

from __future__ import annotations

import contextlib
import functools
import threading
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
        self.reason = f"never {WORTH_CAPTURING} attempts to queue at once"
        self._replay: Callable[[], None] | None = None

    @property
    def ready(self) -> bool:
        """Whether it was captured, or found that it cannot be."""
        return self._replay is not None

    def __call__(self) -> None:
        if self._replay is None:
            try:
                self._replay = captured(self.attempt)
                self.reason = ""
            except RuntimeError as error:
                # a field that waits for the device, or allocates in a way that cannot be repeated
                self.reason = str(error).splitlines()[0]
                self._replay = self.attempt
        self._replay()

    def end(self) -> None:
        """The solve has ended, and the host knows it."""
        if isinstance(self._replay, Graph):
            self._replay.leave_memory()
        self._replay = None


class Graph:
    """The kernels of an attempt, captured beside the caller's stream; calling it launches them on that stream.

    ``torch.cuda.graph`` waits for the device and empties torch's cache of memory, which every solve would pay for. Here
    what an attempt allocates comes from a pool of the graph's own, which the next graph on this stream takes over.

    Raises:
        RuntimeError: the attempt does something that cannot be captured.
    """

    def __init__(self, attempt: Callable[[], None]) -> None:
        self.place = _place(torch.cuda.current_stream())
        self.graph = torch.cuda.CUDAGraph()
        cached_casts = torch.is_autocast_cache_enabled()
        with self.place.lock, torch.cuda.stream(self.place.stream):
            before, self.place.ended = self.place.ended, None
            # a cast that autocast keeps would be read when its memory is no longer the graph's
            torch.set_autocast_cache_enabled(False)
            try:
                # other threads may go on allocating memory
                self.graph.capture_begin(before.pool() if before else None, capture_error_mode="thread_local")
                try:
                    attempt()
                except BaseException:
                    # that a capture which has failed cannot be ended well is no news
                    with contextlib.suppress(RuntimeError):
                        self.graph.capture_end()
                    raise
                self.graph.capture_end()
            finally:
                torch.set_autocast_cache_enabled(cached_casts)

    def __call__(self) -> None:
        self.graph.replay()

    def leave_memory(self) -> None:
        """To the next graph here: nothing uses it any more."""
        self.place.ended = self.graph


class _Place:
    """Where the graphs of one stream are captured.

    Attributes:
        stream: beside the caller's; always the same, because libraries keep a workspace for each stream.
        lock: a stream captures for one thread at a time.
        ended: the graph of the last solve that has ended, if any; it holds its memory.
    """

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.lock = threading.Lock()
        self.ended: torch.cuda.CUDAGraph | None = None


@functools.cache
def _place(stream: torch.cuda.Stream) -> _Place:
    return _Place()


def captured(attempt: Callable[[], None]) -> Callable[[], None]:
    """What launches the kernels of ``attempt`` again; capturing does not execute them.

    Raises:
        RuntimeError: it does something that cannot be captured.
    """
    return Graph(attempt)
