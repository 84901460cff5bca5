"""Tests of compiled kernels, which need Triton as it is, not its interpreter."""

from __future__ import annotations

import os

collect_ignore_glob = ["test_*.py"] if os.environ.get("TRITON_INTERPRET") == "1" else []
