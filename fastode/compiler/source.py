"""The user's line that runs now."""

from __future__ import annotations

import linecache
import os
import sys
from types import FrameType

import torch

_HERE = os.path.dirname(os.path.abspath(__file__))
_FASTODE = os.path.dirname(_HERE)
_TORCH = os.path.dirname(os.path.abspath(torch.__file__))


def user_line() -> str | None:
    """The user's line that runs now, ``file.py:123: code``: the innermost frame outside torch and fastode.

    A field of ``fastode.nn`` has no such frame inside the trace; its own line is taken.
    """
    frame: FrameType | None = sys._getframe()
    fallback = None
    while frame is not None:
        file = os.path.abspath(frame.f_code.co_filename)
        if os.path.dirname(file) == _HERE:
            if frame.f_code.co_name == "trace":
                break
        elif not file.startswith(_TORCH + os.sep):
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}: "
            place += linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
            if not file.startswith(_FASTODE + os.sep):
                return place
            fallback = fallback or place
        frame = frame.f_back
    return fallback
