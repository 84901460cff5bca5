"""Numbers of the host as kernels take them: the rows of a :class:`DeviceState`'s arrays, statuses, and limits."""

from __future__ import annotations

import triton.language as tl

from .. import row_state
from .state import COUNTS, REALS


class Constant(tl.constexpr):  # type: ignore[misc]
    """At every launch Triton compares all constants of a kernel with those it was compiled for. Its own comparison
    makes two objects and takes a microsecond; the controller has 26 constants."""

    def __ne__(self, other: object) -> bool:
        return not isinstance(other, tl.constexpr) or bool(self.value != other.value)


T = Constant(REALS.index("t"))
T1 = Constant(REALS.index("t1"))
DT = Constant(REALS.index("dt"))
SIZE = Constant(REALS.index("size"))
HISTORY = Constant(REALS.index("history"))
OLDER = Constant(REALS.index("older"))
ERR = Constant(REALS.index("err"))
T_END = Constant(REALS.index("t_end"))
TRIED_T = Constant(REALS.index("tried_t"))
TRIED_DT = Constant(REALS.index("tried_dt"))

STATUS = Constant(COUNTS.index("status"))
ACCEPT = Constant(COUNTS.index("accept"))
N_ACCEPTED = Constant(COUNTS.index("n_accepted"))
N_REJECTED = Constant(COUNTS.index("n_rejected"))
NEXT_STOP = Constant(COUNTS.index("next_stop"))
NEXT_OUTPUT = Constant(COUNTS.index("next_output"))
FIRST_OUTPUT = Constant(COUNTS.index("first_output"))
SINCE_OUTPUT = Constant(COUNTS.index("since_output"))

RUNNING = Constant(row_state.RUNNING)
FINISHED = Constant(row_state.FINISHED)
STEP_UNDERFLOW = Constant(row_state.STEP_UNDERFLOW)
NON_FINITE = Constant(row_state.NON_FINITE)
TOO_MANY_STEPS = Constant(row_state.TOO_MANY_STEPS)
EVENT = Constant(row_state.EVENT)
LEAST_ERROR = Constant(row_state.LEAST_ERROR)
LEAST_SHARE = Constant(row_state.LEAST_SHARE)
MAX_DOUBLE = Constant(1.7976931348623157e308)
