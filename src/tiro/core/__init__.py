"""The names that asset libraries import: `from tiro.core import Entity`."""

from tiro.model import Entity
from tiro.scenario import Scenario

__all__ = ["Entity", "Scenario"]
