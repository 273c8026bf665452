"""Training runs that record themselves: `train(TrainConfig(...), run_dir)`."""

from .loop import TrainConfig as TrainConfig
from .loop import train as train
