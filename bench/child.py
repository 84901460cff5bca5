"""One part of a command with ``--out``, in a process of its own: ``python -m bench.child PART FOLDER OPTIONS``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .options import Options, leave


def main(arguments: Sequence[str]) -> int:
    """Run a part; 1 if it failed."""
    part, folder, options = arguments
    return PARTS[part](Path(folder), Options(**json.loads(options)))


def _profile(folder: Path, options: Options) -> int:
    from .profiles import profile_all

    found = profile_all(folder, options.device, options.tiny, lambda f: leave("profile", folder, f))
    return int(found.failed)


def _tuning(folder: Path, options: Options) -> int:
    from .tuning import tune

    found = tune(options.seconds, lambda f: leave("tuning", folder, f))
    return int(found.failed)


def _cases(folder: Path, options: Options) -> int:
    from .cases_apart import measure

    return measure(folder, options)


PARTS: dict[str, Callable[[Path, Options], int]] = {"profile": _profile, "tuning": _tuning, "cases": _cases}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
