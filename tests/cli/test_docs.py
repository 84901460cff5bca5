"""What README and docs say: their code runs, their tables are complete."""

import re

import numpy as np
import pytest
from repository import ROOT

from fastode.methods import methods
from fastode.methods.scipy_solver import METHOD as SCIPY
from fastode.options import ADAPTIVE_OPTIONS, GRID_OPTIONS
from fastode.training import TrainConfig

PAGES = ["README.md", "README.zh-CN.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def named_in_first_columns(markdown):
    """The words in backticks in the first column of every table."""
    cells = re.findall(r"^\| (.*?) \|", markdown, re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


SNIPPETS = [
    pytest.param(code, id=f"{page}:{i}")
    for page in PAGES
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", text(page), re.DOTALL), 1)
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_every_python_snippet_runs(code):
    import fastode

    try:
        exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})
    finally:
        fastode.unpatch_torchdiffeq()


PEER_PAGE = "docs/from-torchode-and-diffrax.md"
PEER_SNIPPETS = re.findall(r"```py\n(.*?)```", text(PEER_PAGE), re.DOTALL)


@pytest.mark.parametrize("peer", ["torchode", "diffrax"])
def test_the_snippet_of_another_library_runs_and_solves_what_ours_solves(peer):
    pytest.importorskip(peer, reason=f"{peer} is not installed (it is in the extra 'bench')")
    theirs = [code for code in PEER_SNIPPETS if f"import {peer}\n" in code]
    ours = [code for code in re.findall(r"```python\n(.*?)```", text(PEER_PAGE), re.DOTALL) if "def decay" in code]
    assert len(theirs) == 1

    ends = []
    for code in (theirs[0], ours[["torchode", "diffrax"].index(peer)]):
        names = {"__name__": "snippet"}
        exec(compile(code, "snippet", "exec"), names)
        ends.append(np.asarray(names["solution"].ys))

    np.testing.assert_allclose(ends[0], ends[1], atol=1e-4)


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", text(page))

    missing = [link for link in links if "://" not in link and not (ROOT / page).parent.joinpath(link).exists()]

    assert missing == []


def test_the_page_of_methods_names_every_method_and_no_other():
    assert named_in_first_columns(text("docs/methods.md")) | {"scipy_solver"} == set(methods())
    assert "`scipy_solver`" in text("docs/methods.md")


def test_the_page_of_options_names_every_option_and_no_other():
    own = frozenset().union(*[getattr(m, "options", None) or frozenset() for m in methods().values()])
    without_effect = {"grid_points", "eps"}
    assert without_effect <= (SCIPY.options or frozenset())

    assert named_in_first_columns(text("docs/options.md")) == (ADAPTIVE_OPTIONS | GRID_OPTIONS | own) - without_effect


def test_the_page_of_the_command_line_names_every_setting_of_a_run():
    options = {name.split()[0] for name in named_in_first_columns(text("docs/cli.md")) if name.startswith("--")}

    settings = {"--" + name.replace("_", "-") for name in TrainConfig.__dataclass_fields__ if name != "data"}
    assert settings <= options


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_both_readmes_have_one_place_for_the_table_of_measurements(page):
    assert text(page).count("<!-- bench:start -->") == text(page).count("<!-- bench:end -->") == 1


def test_both_readmes_say_the_same_as_far_as_code_can_tell():
    def commands(page):
        lines = [line for line in text(page).splitlines() if line.startswith("    ")]
        return [line.split("#")[0].rstrip() for line in lines]

    assert commands("README.md") == commands("README.zh-CN.md")
