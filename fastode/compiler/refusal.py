"""Why a solve is not native."""


class NotServed(Exception):
    """The native engine does not solve this; the text says why."""


class NoRule(Exception):
    """A program cannot have this operator as it is used; the text goes on after its name."""
