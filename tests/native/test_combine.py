from __future__ import annotations

import numpy as np
import pytest

from fastode import _native

from .reference import address


def combine(out, base, vectors, weights, threads=1):
    pointers = [address(v) for v in vectors]
    _native.combine(
        out.itemsize, out.size, address(out), 0 if base is None else address(base), pointers, weights, threads
    )


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("n", [0, 1, 7, 511, 512, 513, 100003], ids=lambda n: f"n{n}")
@pytest.mark.parametrize("m", [0, 1, 3, 8, 9, 16, 17, 40], ids=lambda m: f"m{m}")
@pytest.mark.parametrize("with_base", [True, False], ids=["base", "no-base"])
def test_combine_is_the_base_plus_the_weighted_vectors(n, m, with_base, dtype):
    rng = np.random.default_rng(n + m)
    vectors = [rng.normal(size=n).astype(dtype) for _ in range(m)]
    base = rng.normal(size=n).astype(dtype) if with_base else None
    weights = list(rng.normal(size=m))
    out = np.full(n, np.nan, dtype)
    combine(out, base, vectors, weights)
    expected = sum((w * v.astype(np.float64) for w, v in zip(weights, vectors, strict=True)), np.zeros(n))
    expected = expected + (0 if base is None else base)
    # m products of size below 10, each rounded twice
    np.testing.assert_allclose(out, expected, rtol=0, atol=10 * (m + 2) * 4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("m", [1, 12], ids=lambda m: f"m{m}")
def test_combine_may_write_over_its_base(m, dtype):
    rng = np.random.default_rng(0)
    base, fresh = rng.normal(size=1000).astype(dtype), np.full(1000, np.nan, dtype)
    vectors = [rng.normal(size=1000).astype(dtype) for _ in range(m)]
    combine(fresh, base, vectors, [0.5] * m)
    combine(base, base, vectors, [0.5] * m)
    np.testing.assert_array_equal(base, fresh)


def test_combine_refuses_to_write_over_a_vector():
    x = np.ones(3)
    with pytest.raises(ValueError, match="`out` is also one of `vectors`"):
        combine(x, None, [x], [1.0])


def test_combine_refuses_what_does_not_fit_together():
    x, out = np.ones(3), np.ones(3)
    with pytest.raises(ValueError, match="`vectors` has 1 entries and `weights` 2"):
        combine(out, None, [x], [1.0, 2.0])
    with pytest.raises(ValueError, match="`itemsize` is 3"):
        _native.combine(3, 3, address(out), 0, [address(x)], [1.0], 1)
    with pytest.raises(ValueError, match="`n` is -1"):
        _native.combine(8, -1, address(out), 0, [address(x)], [1.0], 1)
    with pytest.raises(ValueError, match="`vectors` is a null pointer"):
        _native.combine(8, 3, address(out), 0, [0], [1.0], 1)
    with pytest.raises(ValueError, match="`out` is a null pointer"):
        _native.combine(8, 3, 0, 0, [address(x)], [1.0], 1)
