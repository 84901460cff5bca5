"""MLP fields: what they compute, and that their own divergence is the one autograd finds."""

import pytest
import torch

from fastode import InvalidArgument
from fastode.nn import MLPField, autograd_divergence

HIDDEN = [(7,), (7, 5), (7, 5, 6)]


def make_field(dim=3, hidden=(7, 5), layer="concatsquash", activation="tanh"):
    torch.manual_seed(0)
    return MLPField(dim, hidden, layer, activation).double()


def jacobian_trace(field, t, y):
    rows = [torch.autograd.functional.jacobian(lambda v: field(t, v[None])[0], row) for row in y]
    return torch.stack([r.trace() for r in rows])


@pytest.mark.parametrize("activation", ["tanh", "softplus", "silu"])
@pytest.mark.parametrize("layer", ["concat", "concatsquash"])
@pytest.mark.parametrize("hidden", HIDDEN, ids=["1 hidden", "2 hidden", "3 hidden"])
@pytest.mark.parametrize("dim", [1, 2, 5], ids=lambda d: f"dim {d}")
def test_divergence_equals_the_trace_of_autograds_jacobian(dim, hidden, layer, activation):
    field = make_field(dim, hidden, layer, activation)
    t, y = torch.tensor(0.3, dtype=torch.float64), torch.randn(4, dim, dtype=torch.float64)

    value, divergence = field.value_and_divergence(t, y)

    torch.testing.assert_close(value, field(t, y), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(divergence, jacobian_trace(field, t, y), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("hidden", HIDDEN, ids=["1 hidden", "2 hidden", "3 hidden"])
def test_jacobian_vector_product_equals_autograds(hidden):
    field = make_field(3, hidden)
    t = torch.tensor(0.3, dtype=torch.float64)
    y, v = torch.randn(2, 4, 3, dtype=torch.float64)

    value, jvp = field.value_and_jvp(t, y, v)

    expected_value, expected = torch.autograd.functional.jvp(lambda x: field(t, x), y, v)
    torch.testing.assert_close(value, expected_value, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(jvp, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("hidden", HIDDEN, ids=["1 hidden", "2 hidden", "3 hidden"])
@pytest.mark.parametrize("layer", ["concat", "concatsquash"])
def test_gradient_of_the_divergence_equals_double_backward(layer, hidden):
    field = make_field(3, hidden, layer)
    t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    inputs = [t, y, *field.parameters()]

    gradients = []
    for divergence in (field.value_and_divergence, lambda t, y: autograd_divergence(field, t, y)):
        value, div = divergence(t, y)
        gradients.append(torch.autograd.grad(value.sin().sum() + div.cos().sum(), inputs))

    for mine, autograds in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, autograds, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", ["concat", "concatsquash"])
def test_a_time_per_sample_gives_every_row_its_own_field(layer):
    field = make_field(2, layer=layer)
    t, y = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)

    together = field(t, y)

    alone = torch.cat([field(t[i], y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("layer", ["concat", "concatsquash"])
def test_zero_init_makes_the_field_vanish(layer):
    field = MLPField(2, (8,), layer, zero_init=True)

    assert torch.equal(field(torch.tensor(0.4), torch.randn(5, 2)), torch.zeros(5, 2))


def test_concat_layer_equals_a_linear_layer_on_concatenated_time():
    torch.manual_seed(0)
    field = MLPField(2, (3,), "concat")
    layer = field.layers[0]
    x, t = torch.randn(5, 2), torch.tensor(0.6)
    weight = torch.cat([layer.time_weight[:, None], layer.weight], 1)

    expected = torch.nn.functional.linear(torch.cat([t.expand(5, 1), x], 1), weight, layer.bias)

    torch.testing.assert_close(layer(t, x), expected)


def test_an_unknown_layer_is_refused_with_the_known_ones():
    with pytest.raises(InvalidArgument, match=r"`layer='concatsquish'`.*Did you mean 'concatsquash'.*Known"):
        MLPField(2, layer="concatsquish")


def test_an_unknown_activation_is_refused_with_the_known_ones():
    with pytest.raises(InvalidArgument, match=r"`activation='relu'` is not known.*tanh, softplus, silu"):
        MLPField(2, activation="relu")


@pytest.mark.parametrize(
    ("dim", "hidden"), [(0, (4,)), (2, ()), (2, (4, 0))], ids=["no dim", "no layer", "empty layer"]
)
def test_sizes_below_one_are_refused(dim, hidden):
    with pytest.raises(InvalidArgument, match="every size must be at least 1"):
        MLPField(dim, hidden)
