"""The names that asset libraries import: `from tiro.core.model import Telemetry, Attribute, Alias`."""

from tiro.model import Alias, Attribute, DataPoint, Entity, EntityList, Telemetry

DataPointInfo = DataPoint

__all__ = ["Alias", "Attribute", "DataPointInfo", "Entity", "EntityList", "Telemetry"]
