"""``python -m bench --out``: every part leaves what it found, whatever becomes of the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import pytest
from repository import ROOT, importable

pytest.importorskip("torchdiffeq", reason="the benchmark measures beside torchdiffeq")
with importable():
    from bench import cases_apart, child, everything, processes
    from bench.__main__ import main
    from bench.budget import Budget
    from bench.cases import all_cases
    from bench.cases_apart import run_all
    from bench.options import Options, findings_of, leave
    from bench.out_report import write
    from bench.parts import Findings, Part, run_parts

FACTS = {
    "device": "", "cpu": "a CPU", "instruction_set": "avx2", "load": 0.1, "machine": "Linux", "python": "3",
    "versions": {"torch": "2"}, "fastode": "0", "commit": "abc", "date": "today",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    (tmp_path / "rows.jsonl").touch()
    return tmp_path


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip


def test_on_a_cpu_the_command_writes_all_files_and_names_every_part(tmp_path: Path) -> None:
    out = tmp_path / "results"
    only = "overhead per step with"
    done = command("--out", str(out), "--tiny", "--quick", "--threads", "1", "--only", only)
    assert done.returncode in (0, 1), done.stderr  # 1: a target was missed, which tiny sizes may
    assert done.stdout.strip() == str(out / "report.md")
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [r["case"] for r in rows] == [c.name for c in all_cases(tiny=True) if only in c.name] != []
    report = (out / "report.md").read_text()
    for name in (everything.TESTS, everything.PROFILES, everything.BLOCKS, everything.CASES):
        assert f"## {name}" in report
    for word in (rows[0]["case"], version("torch"), f"--only '{only}'", "a field in Python", "training step of a CNF"):
        assert word in report
    assert report.count("Only a GPU has them") == 2 and (out / "tests.txt").read_text().startswith("Only a GPU")
    assert "failed" not in report.partition("## Refused")[0]
    assert "aten::" in (out / "profile.txt").read_text()
    assert json.loads((out / "trace.json").read_text())["traceEvents"]
    again = command("--out", str(out))
    assert again.returncode == 2 and "is not an empty folder" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "3"], "which is not given"),
        (["--out", "new", "--json", "rows"], "leave out --json"),
        (["--out", "new", "--budget", "-1"], "--budget -1: minutes, 0 or more"),
        (["--out", str(ROOT)], "is not an empty folder"),
        (["--out", __file__], "is not an empty folder"),
    ],
    ids=["budget alone", "json", "negative", "full folder", "file"],
)
def test_what_cannot_be_written_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_what_is_left_out_for_want_of_time_is_named(tmp_path: Path) -> None:
    out = tmp_path / "results"
    done = command("--out", str(out), "--tiny", "--only", "dispatched", "--budget", "0")
    assert done.returncode == 1
    report = (out / "report.md").read_text()
    for name in (everything.PROFILES, *[c.name for c in all_cases(tiny=True) if "dispatched" in c.name]):
        assert f"{name}: skipped: the budget of 0 minutes was spent (--budget)" in report


def test_a_part_that_raises_is_reported_and_does_not_stop_the_others(tmp_path: Path) -> None:
    seen: list[int] = []

    def breaks(budget: Budget) -> Findings:
        raise ValueError("no such thing")

    def works(budget: Budget) -> Findings:
        seen.append(len((tmp_path / "report.md").read_text()))
        return Findings("a table")

    parts = [Part("first", breaks), Part("second", works), Part("third", works, "not here")]
    outcomes = run_parts(parts, Budget(1), lambda so_far: write(tmp_path / "report.md", FACTS, "bench", so_far))
    assert [o.state for o in outcomes] == ["failed", "done", "absent"]
    assert len(seen) == 1 and seen[0] > 0  # what the first one said was written before the second began
    report = (tmp_path / "report.md").read_text()
    assert "- first: ValueError: no such thing" in report and "a table" in report and "not here" in report


#: stands for the process that measures cases: ``note(name, state)`` is its progress, and ``names`` its task
SCRIPT = """
import json, os, sys, time
path, *names = sys.argv[1:]
def note(name, state):
    with open(path, "a") as file:
        file.write(json.dumps([name, state]) + chr(10))
"""


def apart(folder: Path, text: str, limit: float = 20.0, minutes: float = 2.0) -> dict[str, str]:
    """What is wrong with the cases a, b and c."""
    progress = folder / "parts" / "progress.jsonl"

    def run(names: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", SCRIPT + text, str(progress), *names]

    return run_all(["a", "b", "c"], run, folder, Budget(minutes), limit)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("os.abort()", "ended by SIGABRT: on the way"),
        ("sys.exit('a fault')", "exit status 1: a fault"),
        ("time.sleep(60)", "killed: it took more than 0.6 s"),
        ("note(name, 'RuntimeError: too wide'); sys.exit(3)", "RuntimeError: too wide"),
    ],
    ids=["crash", "exit", "hang", "unusable"],
)
def test_after_a_case_that_took_its_process_with_it_the_others_are_measured(folder: Path, what: str, said: str) -> None:
    text = f"""
for name in names:
    note(name, "started")
    print("on the way", flush=True)
    if name == "b":
        {what}
    note(name, "done")
"""
    assert apart(folder, text, limit=0.6 if "sleep" in what else 20.0) == {"b": said}


def test_a_process_that_begins_no_case_is_not_started_again_and_again(folder: Path) -> None:
    wrong = apart(folder, "with open(path + '.starts', 'a') as file: file.write('x')\nraise ImportError('no torch')")
    assert set(wrong) == {"a", "b", "c"} and "no case was begun: exit status 1: ImportError: no torch" in wrong["a"]
    assert (folder / "parts" / "progress.jsonl.starts").read_text() == "x"


def test_cases_that_a_process_had_no_time_for_are_named(folder: Path) -> None:
    wrong = apart(folder, "note('a', 'started'); note('a', 'done')")
    assert wrong == {name: "skipped: the budget of 2 minutes was spent (--budget)" for name in "bc"}
    assert set(apart(folder, "", minutes=0)) == set("abc")


def test_a_case_that_raises_is_noted_and_the_next_one_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {c.name: c for c in all_cases(tiny=True)}
    good, bad = "operators dispatched per step", "forward 64-2-64"

    def breaks(case: object, *rest: object) -> object:
        if case is bad_case:
            raise RuntimeError("a kernel\nwith a long story")
        return run_case(case, *rest)

    bad_case, run_case = known[bad], cases_apart.run_case
    monkeypatch.setattr(cases_apart, "all_cases", lambda tiny, device: [*known.values()])
    monkeypatch.setattr(cases_apart, "run_case", breaks)
    options = Options(tiny=True, quick=True, seconds=60.0, names=[bad, good])
    assert cases_apart.measure(folder, options) == 0
    progress = [json.loads(line) for line in (folder / "parts" / "progress.jsonl").read_text().splitlines()]
    assert progress == [[bad, "started"], [bad, "RuntimeError: a kernel"], [good, "started"], [good, "done"]]
    assert [json.loads(line)["case"] for line in (folder / "rows.jsonl").read_text().splitlines()] == [good]
    gpu = Options(device="cuda", tiny=True, quick=True, seconds=60.0, names=[bad, good])
    monkeypatch.setattr(cases_apart, "environment", lambda device: FACTS)
    monkeypatch.setattr(cases_apart, "_usable", lambda: False)
    assert cases_apart.measure(folder, gpu) == cases_apart.UNUSABLE


def test_a_command_that_takes_too_long_is_killed_with_what_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    text = f"import subprocess, time; subprocess.Popen(['sh', '-c', 'sleep 2; touch {mark}']); time.sleep(60)"
    start = time.monotonic()
    assert processes.run([sys.executable, "-c", text], tmp_path / "log", 0.5) == "killed after 0.5 s"
    time.sleep(max(0.0, start + 3 - time.monotonic()))
    assert not mark.exists()


def test_what_a_part_left_is_kept_when_its_process_ends_badly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave("profile", folder, Findings("half a table", [], False))
    monkeypatch.setattr(Options, "command", lambda *_: [sys.executable, "-c", "import os; os.abort()"])
    found = findings_of("profile", folder, Options(seconds=20.0))
    assert found.text == "half a table" and found.failed and found.problems[0].startswith("ended by SIGABRT")
    monkeypatch.setattr(Options, "command", lambda *_: [sys.executable, "-c", "raise SystemExit(1)"])
    leave("profile", folder, Findings("", ["one solve: broken"], True))
    assert findings_of("profile", folder, Options(seconds=20.0)).problems == ["one solve: broken"]


def test_on_a_gpu_tests_profile_and_block_sizes_come_before_the_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def tests(folder: Path, budget: Budget) -> Findings:
        seen.append("tests")
        return Findings("all passed")

    def part(name: str, folder: Path, options: Options) -> Findings:
        seen.append(f"{name} on {options.device}")
        return Findings(f"a table of {name}", ["a remark"] if name == "tuning" else [])

    def cases(names: Sequence[str], command: Callable[[Sequence[str]], list[str]], *rest: object) -> dict[str, str]:
        seen.append(command(names[:1])[3])
        assert json.loads(command(names[:1])[-1])["device"] == "cuda"
        return {names[0]: "RuntimeError: a fault"}

    for name, stub in (("run_tests", tests), ("findings_of", part), ("run_all", cases)):
        monkeypatch.setattr(everything, name, stub)
    monkeypatch.setattr(everything, "environment", lambda device: {**FACTS, "device": "A GPU"})
    options = Options(device="cuda", tiny=True)
    assert everything.run_everything(tmp_path, options, (), "forward", 5.0, ["--device", "cuda"]) == 1
    assert set(child.PARTS) == {"profile", "tuning", "cases"}
    assert seen == ["tests", "profile on cuda", "tuning on cuda", "cases"]
    report = (tmp_path / "report.md").read_text()
    first = next(c.name for c in all_cases(tiny=True, device="cuda") if "forward" in c.name)
    for word in (
        "A GPU",
        "all passed",
        "a table of tuning",
        "- Block sizes: a remark",
        f"{first}: RuntimeError: a fault",
    ):
        assert word in report
    for word in ("avx2", "a CPU", "load"):
        assert word not in report
