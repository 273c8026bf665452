"""Training runs that record themselves: `train(TrainConfig(...), run_dir)`."""

from .config import TrainConfig as TrainConfig
from .loop import train as train
