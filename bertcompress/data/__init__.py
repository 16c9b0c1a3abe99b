"""A `Task` to raw rows with a `row_id`, and to encoded splits for a tokenizer."""

from bertcompress.data.encoding import collator, numpy_batches
from bertcompress.data.for_model import data_of
from bertcompress.data.loading import load_data
from bertcompress.data.matching import align_labels, differ
from bertcompress.data.task_data import TaskData, calibration_batches, judged_digest

__all__ = [
    "TaskData",
    "align_labels",
    "calibration_batches",
    "collator",
    "data_of",
    "differ",
    "judged_digest",
    "load_data",
    "numpy_batches",
]
