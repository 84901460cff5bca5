"""CNF and NeuralODE behave as modules: copied, pickled, moved, saved, and without memory of a solve."""

import copy
import pickle

import pytest
import torch

from fastode.nn import CNF, Affine, MLPField, NeuralODE


def make_cnf():
    torch.manual_seed(0)
    return CNF(MLPField(2, (6, 6)), affine=Affine(torch.ones(2), 2 * torch.eye(2)))


def make_node():
    torch.manual_seed(0)
    return NeuralODE(MLPField(2, (6, 6)))


def run(module, x):
    return module.log_prob(x) if isinstance(module, CNF) else module(x)


MODULES = pytest.mark.parametrize("make", [make_cnf, make_node], ids=["CNF", "NeuralODE"])


@MODULES
def test_a_deep_copy_computes_the_same_and_trains_alone(make):
    module, x = make(), torch.randn(3, 2)
    run(module, x).sum().backward()

    twin = copy.deepcopy(module)

    assert torch.equal(run(twin, x), run(module, x))
    assert all(a is not b for a, b in zip(module.parameters(), twin.parameters(), strict=True))


@MODULES
def test_pickling_keeps_what_it_computes(make):
    module, x = make(), torch.randn(3, 2)
    run(module, x).sum().backward()

    assert torch.equal(run(pickle.loads(pickle.dumps(module)), x), run(module, x))


@MODULES
def test_the_state_dict_restores_a_fresh_module(make):
    module, x = make(), torch.randn(3, 2)
    torch.manual_seed(1)
    fresh = make()
    with torch.no_grad():
        for p in (*fresh.parameters(), *fresh.buffers()):
            p.add_(1.0)

    fresh.load_state_dict(module.state_dict())

    assert torch.equal(run(fresh, x), run(module, x))


@MODULES
def test_moving_to_float64_computes_in_float64(make):
    module, x = make(), torch.randn(3, 2)
    single = run(module, x)

    double = run(module.to(torch.float64), x.double())

    assert double.dtype == torch.float64
    # both are solved to a tolerance of 1e-5
    torch.testing.assert_close(double.float(), single, rtol=1e-3, atol=1e-3)


@MODULES
def test_a_solve_leaves_nothing_on_the_module(make):
    module = make()
    before = {name: set(vars(m)) for name, m in module.named_modules()}
    keys = list(module.state_dict())

    run(module, torch.randn(3, 2)).sum().backward()

    assert {name: set(vars(m)) for name, m in module.named_modules()} == before
    assert list(module.state_dict()) == keys


@MODULES
def test_printing_shows_the_settings(make):
    assert "rtol=1e-05" in repr(make()) and "dopri5" in repr(make())


def test_a_flow_with_other_tolerances_shares_its_parameters():
    cnf = make_cnf()

    other = cnf.with_tolerance(1e-3, 1e-4)

    assert (other.settings.rtol, other.settings.atol, cnf.settings.rtol) == (1e-3, 1e-4, 1e-5)
    assert all(a is b for a, b in zip(cnf.parameters(), other.parameters(), strict=True))
