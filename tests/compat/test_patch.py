"""``patch_torchdiffeq``: what resolves to fastode while it holds, and that nothing is left of it afterwards."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

import fastode

torchdiffeq = pytest.importorskip("torchdiffeq", reason="there must be something to patch")

PUBLIC = ("odeint", "odeint_adjoint", "odeint_event", "odeint_dense")


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    modules = {n: m for n, m in sys.modules.items() if n.split(".")[0] == "torchdiffeq"}
    content = {n: dict(vars(m)) for n, m in modules.items()}
    yield
    fastode.unpatch_torchdiffeq()
    assert {n: m for n, m in sys.modules.items() if n.split(".")[0] == "torchdiffeq"} == modules
    for name, module in modules.items():
        assert vars(module).keys() == content[name].keys()
        assert all(vars(module)[key] is value for key, value in content[name].items())


def run(code: str, *, hidden: bool = False) -> None:
    """Run ``code`` in a new interpreter, in which torchdiffeq cannot be found if ``hidden``."""
    hide = """
        import sys

        class Hide:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "torchdiffeq":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        sys.meta_path.insert(0, Hide())
    """
    program = (textwrap.dedent(hide) if hidden else "") + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", PUBLIC)
def test_a_module_imported_before_serves_fastode_while_patched(name: str) -> None:
    before = getattr(torchdiffeq, name)
    with fastode.patch_torchdiffeq():
        assert getattr(torchdiffeq, name) is getattr(fastode, name)
        assert sys.modules["torchdiffeq"] is torchdiffeq
    assert getattr(torchdiffeq, name) is before


@pytest.mark.parametrize("name", PUBLIC)
def test_a_name_imported_from_torchdiffeq_before_is_switched_and_switched_back(name: str) -> None:
    user = ModuleType("some_user_of_torchdiffeq")
    exec(f"from torchdiffeq import {name} as solve", vars(user))
    before = vars(user)["solve"]
    sys.modules[user.__name__] = user
    try:
        with fastode.patch_torchdiffeq():
            assert vars(user)["solve"] is getattr(fastode, name)
        assert vars(user)["solve"] is before
    finally:
        del sys.modules[user.__name__]


def test_an_import_while_patched_finds_fastode_in_the_package_and_below() -> None:
    with fastode.patch_torchdiffeq():
        from torchdiffeq import odeint
        from torchdiffeq._impl.adjoint import find_parameters
        from torchdiffeq._impl.odeint import odeint as inner

        assert odeint is inner is fastode.odeint
        assert find_parameters.__module__.startswith("fastode")


def test_an_inner_patch_leaves_the_outer_one_alone() -> None:
    before = torchdiffeq.odeint
    with fastode.patch_torchdiffeq():
        with fastode.patch_torchdiffeq():
            pass
        fastode.patch_torchdiffeq()
        assert torchdiffeq.odeint is fastode.odeint
    assert torchdiffeq.odeint is before


def test_unpatching_without_a_patch_does_nothing_and_twice_is_once() -> None:
    before = torchdiffeq.odeint
    fastode.unpatch_torchdiffeq()
    assert torchdiffeq.odeint is before
    fastode.patch_torchdiffeq()
    fastode.unpatch_torchdiffeq()
    fastode.unpatch_torchdiffeq()
    assert torchdiffeq.odeint is before


def test_an_explicit_unpatch_inside_a_with_is_not_undone_twice() -> None:
    with fastode.patch_torchdiffeq():
        fastode.unpatch_torchdiffeq()
        fastode.patch_torchdiffeq()
    # that second patch is not this block's
    assert torchdiffeq.odeint is fastode.odeint


def test_an_exception_leaves_the_block_unpatched() -> None:
    before = torchdiffeq.odeint
    with pytest.raises(KeyError), fastode.patch_torchdiffeq():
        raise KeyError
    assert torchdiffeq.odeint is before


def test_the_version_stays_three_numbers() -> None:
    with fastode.patch_torchdiffeq():
        version = torchdiffeq.__version__
    assert len([int(part) for part in version.split(".")]) == 3


def test_a_module_of_torchdiffeq_without_a_stand_in_is_not_found_while_patched() -> None:
    sys.modules["torchdiffeq._impl.something_else"] = other = ModuleType("torchdiffeq._impl.something_else")
    try:
        with fastode.patch_torchdiffeq(), pytest.raises(ImportError):
            import torchdiffeq._impl.something_else  # noqa: F401
        assert sys.modules["torchdiffeq._impl.something_else"] is other
    finally:
        del sys.modules["torchdiffeq._impl.something_else"]


def test_methods_written_into_the_table_are_forgotten_with_the_patch() -> None:
    with fastode.patch_torchdiffeq():
        from torchdiffeq._impl.odeint import SOLVERS

        SOLVERS["mine"] = SOLVERS["euler"]
        y, t = torch.ones(1), torch.tensor([0.0, 1.0])
        assert float(torchdiffeq.odeint(lambda t, y: -y, y, t, method="mine")[1]) == 0.0
    assert "mine" not in SOLVERS
    with pytest.raises(ValueError, match='Invalid method "mine"'):
        fastode.odeint(lambda t, y: -y, y, t, method="mine")


def test_torchdiffeq_need_not_be_installed() -> None:
    run(
        """
        import fastode, torch

        with fastode.patch_torchdiffeq():
            import torchdiffeq
            from torchdiffeq import odeint_adjoint as odeint
            import torchdiffeq._impl.misc as misc
            import torchdiffeq._impl.rk_common
            y = odeint(lambda t, y: -y, torch.ones(2), torch.tensor([0.0, 1.0]), adjoint_params=())
            assert torch.allclose(y[1], torch.tensor(-1.0).exp()), y
            assert torchdiffeq._impl.rk_common.Perturb is misc.Perturb
        try:
            import torchdiffeq as again
        except ImportError:
            pass
        else:
            raise SystemExit("still there")
        """,
        hidden=True,
    )


def test_without_torchdiffeq_nothing_of_fastode_asks_for_it() -> None:
    run("import fastode, fastode.nn, fastode.compat.modules; fastode.compat.modules.modules()", hidden=True)


def test_torchdiffeq_can_be_imported_for_the_first_time_while_patched_and_is_itself_afterwards() -> None:
    run(
        """
        import fastode

        with fastode.patch_torchdiffeq():
            import torchdiffeq
            from torchdiffeq._impl.fixed_grid import RK4
            assert torchdiffeq.odeint is fastode.odeint
        import torchdiffeq
        from torchdiffeq._impl.fixed_grid import RK4 as theirs
        assert torchdiffeq.odeint is not fastode.odeint
        assert theirs is not RK4 and theirs.__module__ == "torchdiffeq._impl.fixed_grid"
        """
    )


def test_importing_fastode_alone_does_not_import_torchdiffeq() -> None:
    run("import fastode, sys; assert 'torchdiffeq' not in sys.modules")
