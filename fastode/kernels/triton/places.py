"""Numbers of the host as kernels take them: the rows of a :class:`DeviceState`'s arrays, statuses, and limits."""

from __future__ import annotations

import triton.language as tl

from .. import row_state
from .state import COUNTS, REALS

T = tl.constexpr(REALS.index("t"))
T1 = tl.constexpr(REALS.index("t1"))
DT = tl.constexpr(REALS.index("dt"))
SIZE = tl.constexpr(REALS.index("size"))
HISTORY = tl.constexpr(REALS.index("history"))
OLDER = tl.constexpr(REALS.index("older"))
ERR = tl.constexpr(REALS.index("err"))
T_END = tl.constexpr(REALS.index("t_end"))
TRIED_T = tl.constexpr(REALS.index("tried_t"))
TRIED_DT = tl.constexpr(REALS.index("tried_dt"))

STATUS = tl.constexpr(COUNTS.index("status"))
ACCEPT = tl.constexpr(COUNTS.index("accept"))
N_ACCEPTED = tl.constexpr(COUNTS.index("n_accepted"))
N_REJECTED = tl.constexpr(COUNTS.index("n_rejected"))
NEXT_STOP = tl.constexpr(COUNTS.index("next_stop"))
NEXT_OUTPUT = tl.constexpr(COUNTS.index("next_output"))
FIRST_OUTPUT = tl.constexpr(COUNTS.index("first_output"))
SINCE_OUTPUT = tl.constexpr(COUNTS.index("since_output"))

RUNNING = tl.constexpr(row_state.RUNNING)
FINISHED = tl.constexpr(row_state.FINISHED)
STEP_UNDERFLOW = tl.constexpr(row_state.STEP_UNDERFLOW)
NON_FINITE = tl.constexpr(row_state.NON_FINITE)
TOO_MANY_STEPS = tl.constexpr(row_state.TOO_MANY_STEPS)
EVENT = tl.constexpr(row_state.EVENT)
LEAST_ERROR = tl.constexpr(row_state.LEAST_ERROR)
LEAST_SHARE = tl.constexpr(row_state.LEAST_SHARE)
MAX_DOUBLE = tl.constexpr(1.7976931348623157e308)
