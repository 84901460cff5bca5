"""Pictures of a trained flow. Matplotlib is used through its objects: no global state, no display."""

from .album import draw_album

__all__ = ["draw_album"]
