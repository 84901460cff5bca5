"""What a capture does about streams, memory and autocast, with stand-ins for CUDA's graphs and streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from fastode.device import graph as graphs


class StandIn:
    """CUDA's part: which stream is current, and what was captured with which pool."""

    def __init__(self) -> None:
        self.current: Any = "the caller's"
        self.graphs: list[Any] = []
        device = self

        class CUDAGraph:
            def __init__(self) -> None:
                self.taken: Any = None
                self.replays = 0
                self.state = "new"
                device.graphs.append(self)

            def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
                assert capture_error_mode == "thread_local"
                self.taken, self.state, self.on = pool, "capturing", device.current

            def capture_end(self) -> None:
                if self.state == "broken":
                    raise RuntimeError("capture was invalidated")
                self.state = "captured"

            def pool(self) -> Any:
                return self, "pool"

            def replay(self) -> None:
                assert self.state == "captured"
                self.replays += 1
                self.replayed_on = device.current

        self.CUDAGraph = CUDAGraph

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    stand_in = StandIn()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", stand_in.CUDAGraph)
    monkeypatch.setattr(torch.cuda, "Stream", object)
    monkeypatch.setattr(torch.cuda, "stream", stand_in.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stand_in.current)
    graphs._place.cache_clear()
    yield stand_in
    graphs._place.cache_clear()


def test_an_attempt_is_captured_beside_the_callers_stream_and_replayed_on_it(device: StandIn) -> None:
    where: list[Any] = []
    attempt = graphs.Repeated(lambda: where.append(device.current))
    for _ in range(3):
        attempt()
    (graph,) = device.graphs
    assert where == [graph.on] and graph.on != "the caller's"
    assert (graph.replays, graph.replayed_on, attempt.reason) == (3, "the caller's", "")


def test_the_next_graph_on_a_stream_takes_over_the_memory_of_the_last(device: StandIn) -> None:
    def solve(end: bool = True) -> graphs.Repeated:
        attempt = graphs.Repeated(lambda: None)
        attempt()
        if end:
            attempt.end()
        return attempt

    solve()
    running = solve(end=False)
    solve()
    running.end()
    with device.stream("another"):
        solve()
    solve()
    first, second, third, elsewhere, last = device.graphs
    assert second.taken == first.pool()
    # the second solve still ran when the third began, and other streams have memory of their own
    assert third.taken is None and elsewhere.taken is None
    assert last.taken == second.pool()
    assert first.on is second.on is last.on and elsewhere.on is not first.on


def test_a_failed_capture_leaves_everything_as_it_was(device: StandIn) -> None:
    def attempt() -> None:
        if device.graphs and device.graphs[-1].state == "capturing":
            device.graphs[-1].state = "broken"
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
        calls.append(device.current)

    calls: list[Any] = []
    repeated = graphs.Repeated(attempt)
    repeated()
    repeated()
    repeated.end()
    assert repeated.reason == "operation not permitted when stream is capturing"
    assert device.current == "the caller's" and calls == ["the caller's"] * 2
    after = graphs.Repeated(lambda: None)
    after()
    assert after.reason == "" and device.graphs[-1].taken is None


@pytest.mark.parametrize("enabled", [True, False])
def test_casts_that_autocast_would_keep_are_made_anew_in_a_capture(device: StandIn, enabled: bool) -> None:
    found = []
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=enabled):
        graphs.Repeated(lambda: found.append(torch.is_autocast_cache_enabled()))()
        assert torch.is_autocast_cache_enabled() == enabled
    assert found == [False]
