"""Data sets behind one interface."""

from passband.data.arrays import ArrayDataset
from passband.data.bundle import DataBundle
from passband.data.load import list_datasets, load_dataset

__all__ = ["ArrayDataset", "DataBundle", "list_datasets", "load_dataset"]
