"""diffrax on the fields whose batch shares one step: the same network with the same weights, compiled by jax.

It takes one step for the whole batch, as torchdiffeq does, by the root mean square of all errors, on the device where
the state is. On a CPU jax takes the threads it wants, not torch's number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .contest import Side
from .libraries import jax_device
from .problems import Counted, joined


def forward_side(field: nn.Module, y0: Tensor, t: Tensor, **tolerances: float) -> Side:
    """A solve without gradients. The weights are constants of the compiled program."""
    import jax

    start, weights = _array(y0), _weights(field)

    def slope(t: Any, y: Any, args: Any) -> Any:
        return _network(weights, y)

    solve = jax.jit(lambda y: _solve(slope, y, None, t, tolerances, max_steps=None))
    return Side("diffrax", _run(lambda: solve(start)), lambda ys: joined(torch.stack([y0.cpu(), _tensor(ys[-1])])))


def training_side(field: nn.Module, y0: Tensor, t: Tensor, **tolerances: float) -> Side:
    """A training step: solve, mean square of both outputs, gradients of the weights by the default adjoint."""
    import diffrax

    def loss(weights: Any, y: Any) -> tuple[Any, Any]:
        both = diffrax.SaveAt(t0=True, t1=True)
        ys, steps = _solve(lambda t, y, w: _network(w, y), y, weights, t, tolerances, saveat=both)
        return (ys**2).mean(), steps

    return _gradients(loss, field, y0)


def flow_side(drift: nn.Module, x: Tensor, **tolerances: float) -> Side:
    """A training step of a continuous normalizing flow with the exact trace, by one pass a dimension."""
    import jax
    import jax.numpy as jnp

    def slope(t: Any, state: Any, weights: Any) -> Any:
        z = state[0]
        # one pullback a dimension: measured the fastest in jax on CPUs, four times faster than jvp under vmap
        dz, pullback = jax.vjp(lambda z: _network(weights, z), z)
        rows = [pullback(jnp.zeros_like(z).at[:, i].set(1.0))[0][:, i] for i in range(z.shape[1])]
        return dz, -sum(rows)

    def loss(weights: Any, x: Any) -> tuple[Any, Any]:
        (z, change), steps = _solve(slope, (x, jnp.zeros(len(x))), weights, torch.tensor([1.0, 0.0]), tolerances)
        log_prob = jax.scipy.stats.norm.logpdf(z[-1]).sum(1) - change[-1]
        return -log_prob.mean(), steps

    return _gradients(loss, drift, x)


def _gradients(loss: Callable[[Any, Any], tuple[Any, Any]], field: nn.Module, y0: Tensor) -> Side:
    """Gradients of ``loss(weights, y0)``, which returns the steps beside its value."""
    import jax

    start, weights = _array(y0), _weights(field)
    gradient = jax.jit(jax.grad(loss, has_aux=True))
    run = _run(lambda: gradient(weights, start))
    return Side("diffrax", run, lambda grads: joined(tuple(_tensor(g) for layer in grads for g in layer)))


def _run(call: Callable[[], tuple[Any, Any]]) -> Callable[[nn.Module], Any]:
    """Of a call that returns a result and the number of steps."""
    import jax

    def run(field: nn.Module) -> Any:
        result, steps = jax.block_until_ready(call())
        if isinstance(field, Counted):
            field.steps = int(steps)
            # one at the start and six a step, as a callback inside the field counts them
            field.evaluations[0] = 1 + 6 * field.steps
        return result

    return run


def _solve(slope: Callable[..., Any], y0: Any, args: Any, t: Tensor, tolerances: Any, **how: Any) -> tuple[Any, Any]:
    import diffrax

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(slope), diffrax.Dopri5(), float(t[0]), float(t[-1]), None, y0, args,
        stepsize_controller=diffrax.PIDController(**tolerances), throw=False, **how,
    )  # fmt: skip
    return solution.ys, solution.stats["num_steps"]


def _network(weights: Any, y: Any) -> Any:
    """``problems.MLPField``."""
    import jax.numpy as jnp

    *hidden, (weight, bias) = weights
    for w, b in hidden:
        y = jnp.tanh(y @ w.T + b)
    return y @ weight.T + bias


def _weights(field: nn.Module) -> list[tuple[Any, Any]]:
    return [(_array(m.weight), _array(m.bias)) for m in field.modules() if isinstance(m, nn.Linear)]


def _array(x: Tensor) -> Any:
    import jax

    return jax.device_put(x.numpy(force=True), jax_device(x.device.type))


def _tensor(x: Any) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.array(x))
