"""Random fields in random solves: compiled, they have the steps, values and gradients of the step loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fastode
from fastode.nn import CNF

from .drawn import ADAPTIVE, FIXED, Drawn


@pytest.fixture(autouse=True)
def _float64() -> None:
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("seed", range(60))
def test_odeint(seed: int) -> None:
    drawn = Drawn(seed)
    choose = drawn.choose
    method = choose.choice(ADAPTIVE + FIXED)
    options: dict[str, Any] = {}
    if method in ADAPTIVE:
        given = {"first_step": 0.1, "safety": 0.8, "ifactor": 5.0, "dfactor": 0.3, "max_step": 0.2}
        options = {name: value for name, value in given.items() if choose.random() < 0.2}
    else:
        options = choose.choice([{}, {"step_size": 0.05}, {"step_size": 0.3}])
        drawn.t.requires_grad_(choose.random() < 0.5)
    drawn.compare(
        lambda f: [fastode.odeint(f, drawn.y0, drawn.t, *drawn.args, method=method, options=options, **drawn.how)]
    )


@pytest.mark.parametrize("seed", range(60))
def test_solve(seed: int) -> None:
    drawn = Drawn(1000 + seed)
    choose = drawn.choose
    method = choose.choice(ADAPTIVE + FIXED)
    how: dict[str, Any] = {"method": method, "dense": method in ADAPTIVE and choose.random() < 0.4, **drawn.how}
    if method in FIXED:
        how["first_step"] = torch.rand(drawn.rows) * 0.2 + 0.05
    else:
        how["controller"] = choose.choice(["I", "PI", "PID"])
        how["rtol"] = torch.linspace(how["rtol"], 10 * how["rtol"], drawn.rows)[:, None]
    ends = torch.rand(drawn.rows), 2 * torch.rand(drawn.rows)
    how |= choose.choice([{"t_span": ends}, {"t_eval": drawn.t}])

    def solve(field: Any) -> list[Tensor]:
        solution = fastode.solve(field, drawn.y0, args=drawn.args, **how)
        middle = [solution.sol(0.5 * (solution.ts[:, :1] + solution.ts[:, -1:]))] if how["dense"] else []
        counts = [solution.stats.n_func, solution.stats.n_accepted, solution.stats.n_rejected, solution.status]
        return [solution.ys, solution.y, *middle, *[c.to(solution.ys.dtype) for c in counts]]

    drawn.compare(solve)


@pytest.mark.parametrize("seed", range(40))
def test_dense(seed: int) -> None:
    drawn = Drawn(2000 + seed)
    method = drawn.choose.choice(ADAPTIVE + FIXED)
    options = {} if method in ADAPTIVE else {"step_size": 0.11}

    def solve(field: Any) -> list[Tensor]:
        t = drawn.t
        found = fastode.odeint_dense(
            field, drawn.y0, t[0], t[-1], *drawn.args, method=method, options=options, **drawn.how
        )
        return [found(t), found(t.mean())]

    drawn.compare(solve)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_flows(trace: str, seed: int) -> None:
    drawn = Drawn(3000 + seed, most_arguments=0)
    drawn.field.bounded, drawn.memory = False, None
    method = drawn.choose.choice(["dopri5", "bosh3", "rk4", "adaptive_heun"])
    options = {"step_size": 0.25} if method == "rk4" else {}
    noise = torch.randn_like(drawn.y0) if trace == "hutchinson" else None

    def solve(field: Any) -> list[Tensor]:
        native = isinstance(field, fastode.CompiledField)
        how = {"method": method, "options": options, "compile": native, **drawn.how}
        flow = CNF(drawn.field, drawn.features, trace=trace, **how)
        return list(flow.inverse(drawn.y0, noise=noise))

    drawn.compare(solve, 1e-7)
