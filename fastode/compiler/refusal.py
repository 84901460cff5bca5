"""Why a solve is not native."""


class NotServed(Exception):
    """The native engine does not solve this; the text says why."""
