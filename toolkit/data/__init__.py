"""Images as a function of position."""

from toolkit.data.batch import Batch
from toolkit.data.batches import Batches
from toolkit.data.digits import Digits
from toolkit.data.folder import ImageFolder
from toolkit.data.hub import HubDataset
from toolkit.data.source import DataSource

__all__ = ["Batch", "Batches", "DataSource", "Digits", "HubDataset", "ImageFolder"]
