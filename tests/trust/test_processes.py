"""Long runs, threads, forks, interrupts and several processes: right answers, and nothing left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import Net
from torch import Tensor

import fastode

D = torch.float64
T = torch.tensor([0.0, 1.0], dtype=D)


def run(code: str, timeout: float = 120) -> str:
    """Standard output of ``code`` in a new interpreter, which must end well."""
    program = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def one_of_each(y0: Tensor, net: Net) -> None:
    """A solve without a tape, one on a grid, and both gradients."""
    short = {"rtol": 1e-2, "atol": 1e-2}
    with torch.no_grad():
        fastode.odeint(net, y0, T, **short)
        fastode.odeint(net, y0, T, method="euler")
    for gradient in ("backsolve", "discrete"):
        y = fastode.odeint_adjoint(net, y0, T, gradient=gradient, method="bosh3", **short)
        torch.autograd.grad(y[-1].sum(), net.w1)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_ten_thousand_solves_leave_neither_objects_nor_memory_behind() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return y

    y0 = torch.ones(2)
    t = T.float()
    for _ in range(200):
        fastode.odeint(field, y0, t, rtol=0.1, atol=0.1)
    gc.collect()
    objects, memory = len(gc.get_objects()), resident()
    with torch.no_grad():
        for _ in range(10_000):
            fastode.odeint(field, y0, t, rtol=0.1, atol=0.1)
    gc.collect()
    # one object a solve would be 10,000; one page a solve 40 MB
    assert len(gc.get_objects()) - objects < 500
    assert resident() - memory < 8e6


def test_no_kind_of_solve_keeps_an_object() -> None:
    y0, net = torch.ones(1, 3, dtype=D), Net()
    for _ in range(3):
        one_of_each(y0, net)
    gc.collect()
    objects = len(gc.get_objects())
    for _ in range(100):
        one_of_each(y0, net)
    gc.collect()
    # one for each of the 400 solves would show
    assert len(gc.get_objects()) - objects < 200


def test_a_solution_dies_with_its_last_reference_and_needs_no_collector() -> None:
    import weakref

    gc.disable()
    try:
        for name, options in (("odeint", {}), ("odeint_adjoint", {}), ("odeint_adjoint", {"gradient": "discrete"})):
            net = Net()
            y = getattr(fastode, name)(net, torch.ones(1, 3, dtype=D), T, rtol=1e-3, atol=1e-3, **options)
            y[-1].sum().backward()
            gone = weakref.ref(net)
            del y, net
            assert gone() is None, (name, options)
    finally:
        gc.enable()
        gc.collect()


def test_threads_get_their_own_answers_and_their_own_accounts() -> None:
    net = Net()
    states = [torch.full((4, 3), 0.1 * i, dtype=D) for i in range(1, 7)]
    spans = [torch.tensor([0.0, float(i)], dtype=D) for i in range(1, 7)]
    with torch.no_grad():
        expected = []
        for y0, t in zip(states, spans, strict=True):
            with fastode.stats() as log:
                expected.append((fastode.odeint(net, y0, t), log.n_func))
    failures: list[Any] = []
    start = threading.Barrier(len(states))

    def work(i: int) -> None:
        try:
            start.wait(30)
            for _ in range(10):
                with torch.no_grad(), fastode.stats() as log:
                    y = fastode.odeint(net, states[i], spans[i])
                if not torch.equal(y, expected[i][0]) or log.n_func != expected[i][1]:
                    failures.append((i, log.n_func, expected[i][1]))
                if fastode.last_stats().n_func != expected[i][1]:
                    failures.append((i, "last_stats"))
        except BaseException as error:
            failures.append((i, error))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(states))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_child_forked_after_threads_were_used_solves_too() -> None:
    out = run(
        """
        import os, torch, warnings
        warnings.simplefilter("ignore")
        import fastode

        torch.set_num_threads(2)
        y0, t = torch.ones(512, 128), torch.tensor([0.0, 1.0])
        field = lambda t, y: -y
        expected = fastode.odeint(field, y0, t)
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            same = torch.equal(fastode.odeint(field, y0, t), expected)
            os._exit(0 if same else 3)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status))
        """
    )
    assert out.strip() == "0"


@pytest.mark.parametrize("method", ["dopri5", "rk4", "gl4"])
def test_an_interrupt_stops_a_long_solve(method: str) -> None:
    program = textwrap.dedent(
        f"""
        import signal, torch, fastode

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
        calls = 0

        def field(t, y):
            global calls
            calls += 1
            if calls == 5:
                print("running", flush=True)
            return torch.cos(1e6 * t) * y

        options = {{"first_step": 1e-7}} if "{method}" == "dopri5" else {{"step_size": 1e-6}}
        try:
            fastode.odeint(field, torch.ones(2), torch.tensor([0.0, 1e9 if options.get("first_step") else 1.0]),
                           method="{method}", options=options)
        except KeyboardInterrupt:
            print("interrupted")
        else:
            print("finished")
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert out == "interrupted\n"


DDP = """
import os, sys, torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import fastode


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()

    def forward(self, y0):
        t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
        field = lambda t, y: self.net(y)
        return fastode.odeint_adjoint(field, y0, t, gradient="discrete", adjoint_params=tuple(self.net.parameters()))


rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
shards = [torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(2)]

alone = Model()
sum(alone(shard).square().mean() for shard in shards).div(2).backward()

model = DistributedDataParallel(Model())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(2):
    optimizer.zero_grad()
    model(shards[rank]).square().mean().backward()
    if step == 0:
        for p, q in zip(model.module.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-8)
    optimizer.step()
weights = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
both = [torch.empty_like(weights) for _ in range(2)]
dist.all_gather(both, weights)
assert torch.equal(*both)
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # gloo's own threads now and then abort an orderly exit; nothing of it is under test
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_processes_train_a_module_with_a_solve_by_the_averaged_gradient(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", DDP]
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    deadline = time.monotonic() + 120
    try:
        said = [w.communicate(timeout=max(1.0, deadline - time.monotonic()))[1] for w in workers]
        assert [w.returncode for w in workers] == [0, 0], "".join(said)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
