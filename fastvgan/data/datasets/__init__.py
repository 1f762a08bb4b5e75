"""A torch Dataset of clips as a source of training clips."""

from fastvgan.data.datasets.items import ClipShape
from fastvgan.data.datasets.reading import AnyDataset, is_dataset
from fastvgan.data.datasets.source import DatasetSource, Examined, examine, examine_source

__all__ = ["AnyDataset", "ClipShape", "DatasetSource", "Examined", "examine", "examine_source", "is_dataset"]
