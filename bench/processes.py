"""Commands in processes of their own: one that hangs, or whose GPU has faulted, takes nothing else with it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: seconds between looks at a process
INTERVAL = 0.05
#: seconds that a killed process may take to go: a kernel that never ends can hold it
PATIENCE = 30.0


def run(command: Sequence[str], output: Path, limit: float, watch: Callable[[], str] = lambda: "") -> str:
    """Run a command from the repository's root.

    Args:
        output: file that its output is appended to, as it comes.
        limit: seconds, after which it is killed with all that it started.
        watch: says why it should be killed before, or gives an empty string.

    Returns:
        An empty string, or why the command did not end well.
    """
    end = time.monotonic() + limit
    # what a process has said when it is killed has to be in the file
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with output.open("ab") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while process.poll() is None:
                reason = watch() or (f"killed after {limit:.3g} s" if time.monotonic() > end else "")
                if reason:
                    return _kill(process, reason)
                time.sleep(INTERVAL)
        except KeyboardInterrupt:
            _kill(process, "interrupted")
            raise
    if process.returncode < 0:
        return f"ended by {signal.Signals(-process.returncode).name}"
    return f"exit status {process.returncode}" if process.returncode else ""


def _kill(process: subprocess.Popen[bytes], reason: str) -> str:
    os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return f"{reason}; process {process.pid} did not go within {PATIENCE:.0f} s"
    return reason


def last_line(output: Path) -> str:
    """Of a file, the last line that is not empty: what a failed process said last."""
    lines = (
        [line for line in output.read_text(errors="replace").splitlines() if line.strip()] if output.exists() else []
    )
    return lines[-1].strip() if lines else ""
