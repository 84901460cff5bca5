"""The ``fastode`` command. Every user error is one line on stderr and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

#: what the `cli` extra brings: import name to distribution
REQUIRED = {
    "typer": "typer",
    "rich": "rich",
    "matplotlib": "matplotlib",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "safetensors": "safetensors",
    "PIL": "pillow",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        0 done, 1 a solve failed, 2 a user error, 130 interrupted.
    """
    missing = [name for module, name in REQUIRED.items() if find_spec(module) is None]
    if missing:
        print(
            f"fastode: the command line needs {', '.join(missing)}; write: pip install 'torch-fastode[cli]'",
            file=sys.stderr,
        )
        return 2
    from .app import run

    return run(list(sys.argv[1:] if argv is None else argv))
