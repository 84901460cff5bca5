"""``python -m bench``: the table of ratios beside torchdiffeq.

Examples:
    python -m bench --threads 1,2 --json results.jsonl
    python -m bench --only overhead --quick
    python -m bench --device cuda --markdown
    python -m bench --device cuda --out results/
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .cases import all_cases
from .contest import StepCounts
from .everything import run_everything
from .machine import QUIET_LOAD, environment
from .measure import Effort, Row, run_case
from .options import Options
from .report import cells, json_line, left_out, report, step_cells

#: after which ``--out`` starts nothing new
MINUTES = 12.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases and print the tables; 1 if a target was missed or a row refused."""
    args = _parser().parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: torch finds no CUDA device here; use --device cpu", file=sys.stderr)
        return 2
    if wrong := _wrong_output(args):
        print(wrong, file=sys.stderr)
        return 2
    facts = environment(args.device)
    if args.device == "cpu" and facts["load"] > QUIET_LOAD:
        print(
            f"warning: the load average is {facts['load']}, more than {QUIET_LOAD}: this machine is not quiet and the "
            "ratios are not to be trusted",
            file=sys.stderr,
        )
    effort = Effort.quick() if args.quick else Effort()
    known = all_cases(args.tiny, args.device)
    cases = [c for c in known if args.only in c.name]
    if not cases:
        print(f"--only {args.only!r} fits no case; known: {', '.join(c.name for c in known)}", file=sys.stderr)
        return 2
    if args.out:
        options = Options(args.device, args.tiny, args.quick)
        given = sys.argv[1:] if argv is None else argv
        minutes = MINUTES if args.budget is None else args.budget
        return run_everything(args.out, options, args.threads or (), args.only, minutes, given)
    before = torch.get_num_threads()
    results: list[Row | StepCounts] = []
    try:
        for turn, threads in enumerate(args.threads or [before]):
            for case in [c for c in cases if not c.missing and not (turn and (c.once or c.threads))]:
                result = run_case(case, threads, effort)
                results.append(result)
                shown = cells(result, args.device == "cuda") if isinstance(result, Row) else step_cells(result)
                print("  ".join(shown), file=sys.stderr, flush=True)
                if args.json:
                    with args.json.open("a") as file:
                        file.write(json_line(result, facts) + "\n")
    finally:
        torch.set_num_threads(before)
    print(report(results, facts, args.markdown))
    if missing := left_out(cases):
        print(missing)
    return int(any(r.refused or (isinstance(r, Row) and r.met is False) for r in results))


def _wrong_output(args: argparse.Namespace) -> str:
    """What is wrong with the options about what is written where, or an empty string."""
    if not args.out:
        return "" if args.budget is None else "--budget is the time of a command with --out, which is not given"
    if args.json or args.markdown:
        return "--out writes rows.jsonl and Markdown by itself; leave out --json and --markdown"
    if args.budget is not None and not args.budget >= 0:
        return f"--budget {args.budget:g}: minutes, 0 or more"
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        return f"--out {args.out} is not an empty folder; name one that is empty or new"
    return ""


def _thread_counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if any(n < 1 for n in counts):
        raise ValueError
    return counts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=_thread_counts, help="thread counts, such as 1,2 (default: torch's)")
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run?")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, for tests of the benchmark itself")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="cases whose name holds this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append one JSON line a row")
    parser.add_argument("--markdown", action="store_true", help="a table for the README")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu",
        help="where all libraries solve; cuda: the cases that are not about the kernels for CPUs, at larger sizes too",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="everything in a new folder: report.md, rows.jsonl, a profile, and on a GPU its tests and block sizes",
    )  # fmt: skip
    parser.add_argument(
        "--budget", type=float, metavar="MINUTES",
        help=f"with --out: after so long nothing new is started, and what is left out is named (default: {MINUTES:g})",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
