"""Launches and synchronisations are counted where they happen, and only there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed, so no kernel can be compiled")

from . import kernels
from .counting import counting_launches, counting_synchronisations
from .driver import stand_in
from .emulator import emulated_gpu


def test_launches_are_counted_by_kernel_and_compiling_is_none() -> None:
    x, out = torch.randn(128), torch.zeros(128)
    with emulated_gpu(80), counting_launches() as launches:
        kernels.square_plus_one.warmup(x, out, 128, BLOCK=128, grid=(1,))
        kernels.square_plus_one[(1,)](x, out, 128, BLOCK=128)
        kernels.square_plus_one[(1,)](x, out, 128, BLOCK=128)
        kernels.scaled[(1,)](x, out, 2.0, BLOCK=128)
    assert launches == {"square_plus_one": 2, "scaled": 1}
    with emulated_gpu(80):
        kernels.scaled[(1,)](x, out, 2.0, BLOCK=128)
    assert launches.total() == 3


def test_kept_kernels_and_kept_launchers_are_counted() -> None:
    x, out = torch.randn(128), torch.zeros(128)
    with emulated_gpu(80):
        kept = kernels.square_plus_one[(1,)](x, out, 128, BLOCK=128)
        run = kept.run
        with counting_launches() as launches:
            kept[(1, 1, 1)](x, out, 128, 128)
            run(1, 1, 1, 0, kept.function, kept.packed_metadata, None, None, None, x, out, 128, 128)
    assert launches == {"square_plus_one": 2}


def test_counting_may_begin_before_the_driver_changes() -> None:
    x, out = torch.randn(128), torch.zeros(128)
    with counting_launches() as launches, emulated_gpu(80):
        kernels.scaled[(1,)](x, out, 2.0, BLOCK=128)
    assert launches == {"scaled": 1}


def test_interpreted_launches_are_counted() -> None:
    program = (
        "import torch; from gpu_lab import kernels; from gpu_lab.counting import counting_launches\n"
        "x, out = torch.randn(8), torch.zeros(8)\n"
        "with counting_launches() as launches:\n"
        "    kernels.scaled[(1,)](x, out, 2.0, BLOCK=8)\n"
        "    kernels.scaled[(1,)](x, out, 2.0, BLOCK=8)\n"
        "assert torch.equal(out, 2 * x)\n"
        "print(dict(launches))"
    )
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "{'scaled': 2}"


READS = {
    "item": lambda x: x.item(),
    "bool": lambda x: bool(x > 0),
    "float": lambda x: float(x),
    "int": lambda x: int(x),
    "index": lambda x: [1, 2, 3][x.long()],
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "mask as index": lambda x: x.reshape(1)[x.reshape(1) > 0],
    "mask as index of a store": lambda x: x.clone().reshape(1).__setitem__(x.reshape(1) > 0, x),
    "equal": lambda x: torch.equal(x, x.clone()),
    "allclose": lambda x: torch.allclose(x, x.clone()),
    "bincount": lambda x: x.long().reshape(1).bincount(),
    "unique": lambda x: x.unique(),
    "repeat_interleave": lambda x: x.repeat_interleave(torch.ones(1, dtype=torch.long)),
    "if all": lambda x: 1 if (x > 0).all() else 0,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_reads_by_the_host_are_seen_with_their_line(read) -> None:
    x = torch.tensor(2.0)
    with counting_synchronisations() as seen:
        read(x)
    assert len(seen) >= 1
    assert all("test_counting.py:" in line for line in seen)


def test_each_read_is_seen_once() -> None:
    x = torch.tensor([2.0])
    with counting_synchronisations() as seen:
        x.item()
        x.tolist()
        x.cpu()
    assert [line.split(" at ")[0].split(" (")[0] for line in seen] == ["the value of an element", "tolist", "cpu"]


def test_arithmetic_selection_and_launches_make_nobody_wait() -> None:
    x, out = torch.randn(128), torch.zeros(128)
    at = torch.tensor([3, 5])
    with emulated_gpu(80), counting_synchronisations() as seen:
        y = torch.where(x > 0, x, x.exp()).sum() / x.norm()
        z = x[at] + x[2:4] + x.index_select(0, at)
        x[at] = z * y
        x.copy_(x.clone().to(torch.float64).to(x.device))
        (x * 2).amax().clamp_(min=1)
        kernels.square_plus_one[(1,)](x, out, 128, BLOCK=128)
    assert seen == []


def test_reads_within_autograd_are_seen() -> None:
    class Reads(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
            return grad * 2 if grad.sum().item() > 0 else grad

    x = torch.ones(3, requires_grad=True)
    with counting_synchronisations() as seen:
        Reads.apply(x).sum().backward()
    assert len(seen) == 1


def test_nothing_is_seen_afterwards() -> None:
    x = torch.tensor(2.0)
    with counting_synchronisations() as seen:
        x + 1
    x.item()
    assert seen == []


def test_a_stand_in_that_only_compiles_counts_no_launch() -> None:
    x = torch.randn(128)
    with stand_in(80), counting_launches() as launches:
        kernels.square_plus_one.warmup(x, x, 128, BLOCK=128, grid=(1,))
    assert not launches
