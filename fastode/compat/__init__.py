"""fastode under torchdiffeq's name: for code that imports torchdiffeq and that you do not want to edit.

import fastode
fastode.patch_torchdiffeq()          # before the imports of what uses torchdiffeq
"""

from .patch import PatchHandle, patch_torchdiffeq, unpatch_torchdiffeq

__all__ = ["PatchHandle", "patch_torchdiffeq", "unpatch_torchdiffeq"]
