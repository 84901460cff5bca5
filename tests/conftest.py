"""Every test starts from the same seed, sees NaN where memory is uninitialised, and leaves torch as it found it."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    dtype, threads, grad = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(grad)


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.empty`` and ``torch.empty_like`` return NaN, so that whoever reads before writing shows it."""
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)

        def filled(*args: object, _make: object = make, **kwargs: object) -> torch.Tensor:
            x = _make(*args, **kwargs)  # type: ignore[operator]
            if (x.is_floating_point() or x.is_complex()) and x.device.type == "cpu" and type(x) is torch.Tensor:
                x.detach().fill_(float("nan"))
            return x

        monkeypatch.setattr(torch, name, filled)
