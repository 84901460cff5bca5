"""Training a flow from start to finish: data, trainer, checkpoints, pictures; what ``fastode train`` uses.

Needs only torch and numpy until a table is read (pandas), a checkpoint is written (safetensors) or a picture
is drawn (matplotlib, pillow); ``pip install 'torch-fastode[cli]'`` brings them all.
"""

from .config import TrainConfig
from .data import Data, load_data
from .fit import StopRequest, fit, stop_on_signals
from .folder import RunFolder
from .gaussian import gaussian_nll
from .toys import TOYS
from .trainer import StepRecord, Trainer, held_out_nll, restore_flow

__all__ = [
    "TOYS",
    "Data",
    "RunFolder",
    "StepRecord",
    "StopRequest",
    "TrainConfig",
    "Trainer",
    "fit",
    "gaussian_nll",
    "held_out_nll",
    "load_data",
    "restore_flow",
    "stop_on_signals",
]
