"""Batches for training, out of a LeRobot dataset folder (v3.0, v2.1).

    frames = read_frames(folder, cameras=transforms.cameras.cameras, state_names=[...], action_names=[...])
    check_videos(frames)                                        # before a GPU is touched: every video that is missing or too short
    order = Shuffled(frames.training_rows(), seed=42)           # or Weighted(mixture_sources(frames), seed=42)
    with Loader(frames, order, batch_size=32, horizon=50, workers=4, transform=to_inputs, state=saved) as loader:
        for loaded in loader:
            train_step(loaded.inputs)                           # what `transform(batch)` gave; the Batch itself without one
            loaded.state                                        # into the checkpoint: resumes with the batch after this one
            loaded.batch.places()                               # episode and frame of every row, to name them in errors
        loader.waited_s                                         # seconds that `for` waited, in all

`to_inputs` takes a whole batch: `lambda batch: transforms.forward_training(batch.training_row()).as_dict()`. It runs in a thread ahead
of the step. Validation: `InOrder(frames.validation_rows())` ends; its last batch is filled up with rows that are not `valid`.
"""

from vla_ops.training.data.batch import Batch
from vla_ops.training.data.decode import check_videos
from vla_ops.training.data.frames import Frames, read_frames
from vla_ops.training.data.kept import Cache
from vla_ops.training.data.loader import Loaded, Loader
from vla_ops.training.data.order import InOrder, Order, Shuffled, Source, Weighted, mixture_sources

__all__ = [
    "Batch", "Cache", "Frames", "InOrder", "Loaded", "Loader", "Order", "Shuffled", "Source", "Weighted",
    "check_videos", "mixture_sources", "read_frames",
]  # fmt: skip
