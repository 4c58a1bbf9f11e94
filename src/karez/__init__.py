"""Karez collects data from things that speak different languages; this is its plugin API, and nothing else."""

from karez.errors import ConfigError, NotConnected, PluginError, Rejected
from karez.options import Duration, Secret, Timezone, find_zone, suggest
from karez.records import DEFAULT_CATEGORY, META, Entity, Failed, Record, Records, category_of
from karez.roles import (
    Aggregator,
    AggregatorConfig,
    ConnectorConfig,
    Converter,
    ConverterConfig,
    Dispatcher,
    DispatcherConfig,
    ListenConnector,
    PullConnector,
)

__all__ = [
    "DEFAULT_CATEGORY",
    "META",
    "Aggregator",
    "AggregatorConfig",
    "ConfigError",
    "ConnectorConfig",
    "Converter",
    "ConverterConfig",
    "Dispatcher",
    "DispatcherConfig",
    "Duration",
    "Entity",
    "Failed",
    "ListenConnector",
    "NotConnected",
    "PluginError",
    "PullConnector",
    "Record",
    "Records",
    "Rejected",
    "Secret",
    "Timezone",
    "category_of",
    "find_zone",
    "suggest",
]
