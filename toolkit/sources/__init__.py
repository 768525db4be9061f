"""Data sets that the toolkit reads: scikit-learn's digits, folders of images, Hugging Face `datasets`."""

from toolkit.data.source import DataSource
from toolkit.registry.hookspecs import hookimpl
from toolkit.registry.registry import Registry
from toolkit.sources.digits import Digits
from toolkit.sources.folder import ImageFolder
from toolkit.sources.hub import HubDataset


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(DataSource, "digits", Digits)
    registry.add(DataSource, "datasets", HubDataset)
    registry.add(DataSource, "folder", ImageFolder)
