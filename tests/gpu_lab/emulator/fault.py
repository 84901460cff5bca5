"""The error of a kernel that does what no GPU would let pass, or should not."""


class EmulationFault(RuntimeError):
    """An access out of bounds or misaligned, a deadlock, a trap; the message names the line of the PTX."""
