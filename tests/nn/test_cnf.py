"""Continuous normalizing flows: densities, maps, and the three gradients."""

import math

import pytest
import torch

import fastode
from fastode import InvalidArgument
from fastode.nn import CNF, Affine, MLPField

GRADIENTS = ["autograd", "discrete", "backsolve"]


def make_cnf(dim=2, scale=2.0, **settings):
    """A flow in float64 whose field is far from zero."""
    torch.manual_seed(0)
    field = MLPField(dim, (8, 8)).double()
    with torch.no_grad():
        for p in field.parameters():
            p.mul_(scale)
    return CNF(field, **{"rtol": 1e-9, "atol": 1e-9, **settings})


def make_affine():
    return Affine(torch.tensor([1.0, -2.0]).double(), torch.tensor([[2.0, 0.0], [0.5, 0.25]]).double())


class Swirl(torch.nn.Module):
    """A user's field: shrinks at rate ``a`` and turns."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, t, y):
        return -self.a * y + torch.stack([-y[:, 1], y[:, 0]], 1)


def test_density_integrates_to_one():
    cnf = make_cnf(rtol=1e-6, atol=1e-6, affine=make_affine())
    x, y = torch.linspace(-14, 14, 281).double(), torch.linspace(-7, 3, 201).double()
    grid = torch.cartesian_prod(x, y)

    with torch.no_grad():
        mass = cnf.log_prob(grid).exp().sum() * (x[1] - x[0]) * (y[1] - y[0])

    # the grid's spacing, not the solver, sets the error
    assert abs(float(mass) - 1) < 1e-3


@pytest.mark.parametrize("affine", [None, make_affine()], ids=["plain", "affine"])
def test_forward_and_inverse_undo_each_other_and_log_determinants_are_opposite(affine):
    cnf, z = make_cnf(affine=affine), torch.randn(6, 2, dtype=torch.float64)

    x, log_det = cnf(z)
    back, log_det_back = cnf.inverse(x)

    # two solves with tolerance 1e-9, error amplified by the flow's expansion
    torch.testing.assert_close(back, z, rtol=0, atol=1e-6)
    torch.testing.assert_close(log_det_back, -log_det, rtol=0, atol=1e-6)


def test_log_determinant_is_that_of_the_maps_jacobian():
    cnf, z = make_cnf(affine=make_affine(), gradient="autograd"), torch.randn(1, 2, dtype=torch.float64)

    jacobian = torch.autograd.functional.jacobian(lambda v: cnf(v[None])[0][0], z[0])

    torch.testing.assert_close(cnf(z)[1][0], jacobian.det().abs().log(), rtol=0, atol=1e-6)


def test_a_linear_users_field_gives_the_gaussian_that_theory_predicts():
    field = Swirl()
    cnf = CNF(field, dim=2, rtol=1e-10, atol=1e-10)
    x = torch.randn(5, 2, dtype=torch.float64)

    log_prob = cnf.log_prob(x)

    sigma = math.exp(-field.a.item())
    exact = -0.5 * x.square().sum(1) / sigma**2 - math.log(2 * math.pi * sigma**2)
    torch.testing.assert_close(log_prob, exact, rtol=0, atol=1e-8)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize(
    "make", [lambda: (MLPField(2, (8, 8)).double(), None), lambda: (Swirl(), 2)], ids=["mlp", "user"]
)
def test_the_three_gradients_agree(make, trace):
    torch.manual_seed(0)
    field, dim = make()
    x, noise = torch.randn(2, 6, 2, dtype=torch.float64)
    results = []
    for gradient in GRADIENTS:
        cnf = CNF(field, dim, trace=trace, gradient=gradient, rtol=1e-9, atol=1e-9)
        point = x.clone().requires_grad_()
        loss = cnf.log_prob(point, noise=noise).sin().sum()
        results.append((loss, *torch.autograd.grad(loss, [point, *field.parameters()])))

    for tape, discrete, backsolve in zip(*results, strict=True):
        torch.testing.assert_close(discrete, tape, rtol=1e-10, atol=1e-11)
        # the continuous adjoint is accurate to its solve's tolerance
        torch.testing.assert_close(backsolve, tape, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 3, 9])
@pytest.mark.parametrize("rows", [1, 2, 3, 17])
@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize("how", [{"method": "rk4", "options": {"step_size": 0.2}}, {"rtol": 1e-6, "atol": 1e-6}])
def test_a_few_points_have_the_gradients_of_the_step_loop(how, trace, rows, dim):
    torch.manual_seed(rows)
    field = MLPField(dim, (5, 5)).double()
    x, noise = torch.randn(2, rows, dim, dtype=torch.float64)
    found = []
    for native in (True, False):
        cnf = CNF(field, trace=trace, compile=native, **how)
        point = x.clone().requires_grad_()
        loss = cnf.log_prob(point, noise=noise).sin().sum()
        found.append((cnf.served_by[0], [loss, *torch.autograd.grad(loss, [point, *field.parameters()])]))
    (engine, ours), (_, loop) = found
    assert engine == "compiled" or dim > 8
    for a, b in zip(ours, loop, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


TIMED = [{"method": "rk4"}, {"method": "rk4", "options": {"step_size": 0.3}}, {"rtol": 1e-9, "atol": 1e-9}]


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize("how", TIMED, ids=["two times", "rk4", "dopri5"])
def test_a_flow_learns_how_long_it_runs(how, trace):
    """Natively, by the step loop, and by differences."""
    torch.manual_seed(2)
    field = MLPField(2, (5, 5)).double()
    x, noise = torch.randn(2, 7, 2, dtype=torch.float64)
    ends = torch.tensor([0.1, 1.2], dtype=torch.float64)

    def loss(times, **more):
        flow = CNF(field, trace=trace, **how, **more)
        z, log_det = flow.inverse(x, noise=noise, t=times)
        y, _ = flow.forward(z, noise=noise, t=times)
        return (z.sin() + y.cos()).sum() + log_det.square().sum(), flow.served_by[0]

    found = []
    for native, gradient in ((True, "discrete"), (False, "discrete"), (False, "autograd"), (False, "backsolve")):
        if gradient == "backsolve" and "method" in how:
            continue  # as exact as the grid
        t = ends.clone().requires_grad_()
        value, engine = loss(t, compile=native, gradient=gradient)
        assert (engine == "compiled") == native
        found.append(torch.autograd.grad(value, t)[0])
    with torch.no_grad():
        moves = 1e-4 * torch.eye(2, dtype=torch.float64)
        by_differences = torch.stack([(loss(ends + m)[0] - loss(ends - m)[0]) / 2e-4 for m in moves])
    # of chosen steps native code gives the gradient of the exact flow
    tolerance = 1e-9 if "method" in how else 1e-5
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found[0], by_differences, rtol=1e-5, atol=1e-5)


def test_other_times_are_those_of_another_span():
    torch.manual_seed(0)
    field = MLPField(2, (8,)).double()
    x = torch.randn(5, 2, dtype=torch.float64)
    t = torch.tensor([0.2, 0.9])
    flow, other = CNF(field), CNF(field, t_span=(float(t[0]), float(t[1])))
    assert torch.equal(flow.log_prob(x, t=t), other.log_prob(x))
    assert torch.equal(flow.trajectory(x, 5, t=t), other.trajectory(x, 5))
    torch.manual_seed(1)
    drawn = flow.sample(3, t=t)
    torch.manual_seed(1)
    assert torch.equal(drawn, other.sample(3))


@pytest.mark.parametrize("t", [1.0, (0.0, 1.0), torch.zeros(3), torch.tensor([0, 1])], ids=["one", "tuple", "3", "int"])
def test_times_that_are_not_two_are_refused(t):
    with pytest.raises(InvalidArgument, match=r"`t=.* must be a floating tensor of two times, those of base and data"):
        CNF(MLPField(2)).log_prob(torch.zeros(4, 2), t=t)


@pytest.mark.parametrize("gradient", ["autograd", "discrete"])
def test_log_prob_passes_gradcheck(gradient):
    torch.manual_seed(0)
    field = MLPField(2, (3,)).double()
    cnf = CNF(field, gradient=gradient, method="rk4", options={"step_size": 0.25})
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda v, *_: cnf.log_prob(v), (x, *cnf.parameters()))


def test_hutchinsons_log_prob_is_unbiased_around_the_exact_one():
    cnf = make_cnf(rtol=1e-6, atol=1e-6, trace="hutchinson")
    x, n = torch.randn(1, 2, dtype=torch.float64), 4000
    torch.manual_seed(3)

    with torch.no_grad():
        estimates = cnf.log_prob(x.expand(n, 2).contiguous())
        exact = cnf.with_tolerance(1e-6, 1e-6, trace="exact").log_prob(x)

    # a fixed path, so the estimate is linear in e e'; five standard errors
    assert (estimates.mean() - exact).abs() < 5 * estimates.std() / n**0.5


def test_noise_is_fixed_during_a_solve_and_new_in_the_next():
    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, t, y):
            return -y

        def value_and_jvp(self, t, y, v):
            self.seen.append(v)
            return -y, -v

    spy = Spy()
    cnf = CNF(spy, dim=3, trace="hutchinson", noise="gaussian", compile=False)
    x = torch.randn(4, 3)

    cnf.log_prob(x)
    first = list(spy.seen)
    spy.seen.clear()
    cnf.log_prob(x)

    assert len(first) > 2 and all(v is first[0] for v in first)
    assert not torch.equal(spy.seen[0], first[0])


def test_given_noise_makes_the_estimate_repeatable():
    cnf, x = make_cnf(trace="hutchinson"), torch.randn(4, 2, dtype=torch.float64)
    noise = torch.ones_like(x)

    assert torch.equal(cnf.log_prob(x, noise=noise), cnf.log_prob(x, noise=noise))


def test_samples_have_the_dtype_of_the_parameters_and_follow_the_seed():
    cnf = make_cnf(affine=make_affine(), rtol=1e-5, atol=1e-5)
    torch.manual_seed(5)
    first = cnf.sample(7)
    torch.manual_seed(5)

    assert torch.equal(first, cnf.sample(7))
    assert first.shape == (7, 2) and first.dtype == torch.float64 and not first.requires_grad


def test_samples_have_the_moments_of_the_density():
    cnf = CNF(Swirl(), dim=2)
    torch.manual_seed(0)

    x = cnf.sample(40_000)

    sigma = math.exp(-0.7)
    assert x.mean(0).abs().max() < 5 * sigma / 200
    # the variance of a sample variance is 2 sigma^4 / n
    assert (x.var(0) - sigma**2).abs().max() < 5 * 2**0.5 * sigma**2 / 200


def test_trajectory_starts_at_the_base_and_ends_where_forward_does():
    cnf, z = make_cnf(affine=make_affine()), torch.randn(4, 2, dtype=torch.float64)

    path = cnf.trajectory(z, n_times=5)

    assert path.shape == (5, 4, 2)
    torch.testing.assert_close(path[0], cnf.affine(z))
    torch.testing.assert_close(path[-1], cnf(z)[0], rtol=0, atol=1e-7)


def test_whitening_starts_an_untrained_flow_at_the_gaussians_likelihood():
    torch.manual_seed(0)
    x = torch.randn(200, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64) + 5
    cnf = CNF(MLPField(3, (8, 8), zero_init=True).double(), affine=Affine.whitening(x))

    gaussian = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T, correction=0))

    torch.testing.assert_close(cnf.log_prob(x), gaussian.log_prob(x), rtol=1e-10, atol=1e-10)


def test_standardising_gives_zero_mean_and_unit_variance():
    x = torch.randn(100, 3, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1]) + 3

    u = Affine.standardising(x).inverse(x)

    torch.testing.assert_close(u.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(u.std(0, correction=0), torch.ones(3, dtype=torch.float64))


def test_a_singular_covariance_is_refused_with_the_feature():
    x = torch.randn(50, 3, dtype=torch.float64)
    x[:, 1] = 2.0

    with pytest.raises(InvalidArgument, match=r"singular: feature 2 \(counted from 1\)"):
        Affine.whitening(x)


def test_time_span_may_be_anything():
    field, x = Swirl(), torch.randn(3, 2, dtype=torch.float64)

    longer = CNF(field, dim=2, t_span=(-1.0, 1.0), rtol=1e-9, atol=1e-9).log_prob(x)

    sigma = math.exp(-2 * 0.7)
    exact = -0.5 * x.square().sum(1) / sigma**2 - math.log(2 * math.pi * sigma**2)
    torch.testing.assert_close(longer, exact, rtol=0, atol=1e-7)


def test_backward_solves_are_counted():
    cnf = make_cnf(rtol=1e-4, atol=1e-4)

    with fastode.stats() as log:
        cnf.log_prob(torch.randn(4, 2, dtype=torch.float64)).sum().backward()

    assert [s.direction for s in log] == ["forward", "backward"]
    assert all(s.n_func > 0 for s in log)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trace": "exakt"}, r"`trace='exakt'` is not known. Did you mean 'exact'"),
        ({"noise": "gauss"}, r"`noise='gauss'` is not known"),
        ({"gradient": "adjoint"}, r"`gradient='adjoint'` is not known.*autograd, discrete, backsolve"),
        ({"t_span": (1.0, 1.0)}, r"must be two different times"),
        ({"adjoint_options": {"adjoint_rtol": 1e-3}}, r"needs `gradient='backsolve'`, not 'discrete'"),
    ],
    ids=["trace", "noise", "gradient", "t_span", "adjoint_options"],
)
def test_a_wrong_setting_is_refused_with_what_is_allowed(settings, message):
    with pytest.raises(InvalidArgument, match=message):
        CNF(MLPField(2), **settings)


def test_a_field_of_unknown_size_needs_dim():
    with pytest.raises(InvalidArgument, match=r"write `CNF\(func, dim=2\)`"):
        CNF(Swirl())


@pytest.mark.parametrize(
    "x", [torch.zeros(2), torch.zeros(4, 3), torch.zeros(4, 2).int()], ids=["1-D", "width", "dtype"]
)
def test_points_of_the_wrong_shape_or_dtype_are_refused(x):
    with pytest.raises(InvalidArgument, match=r"`x` has shape .* must be floating, \[batch, 2\]"):
        CNF(MLPField(2)).log_prob(x)


def test_sampling_nothing_is_refused():
    with pytest.raises(InvalidArgument, match="`n=0` must be at least 1"):
        CNF(MLPField(2)).sample(0)
