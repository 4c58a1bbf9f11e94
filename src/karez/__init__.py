"""Karez collects data from things that speak different languages; this is its plugin API, and nothing else."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from karez.errors import ConfigError, NotConnected, PluginError, Rejected
    from karez.options import Duration, Secret, Timezone, find_zone, suggest
    from karez.records import DEFAULT_CATEGORY, META, Entity, Failed, Part, Record, Records, category_of
    from karez.roles import (
        RESERVED_CATEGORIES,
        Aggregator,
        AggregatorConfig,
        ConnectorConfig,
        Converter,
        ConverterConfig,
        Dispatcher,
        DispatcherConfig,
        ListenConnector,
        PullConnector,
        WindowConfig,
        WindowDispatcher,
    )
else:

    def __getattr__(name):
        # imported when first used: pydantic alone costs more than all of `karez --help` may take
        if name in __all__:
            for home in ("errors", "records", "options", "roles"):
                module = import_module(f"karez.{home}")
                if hasattr(module, name):
                    return globals().setdefault(name, getattr(module, name))
        raise AttributeError(f"module 'karez' has no attribute {name!r}")


__all__ = [
    "DEFAULT_CATEGORY",
    "META",
    "RESERVED_CATEGORIES",
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
    "Part",
    "PluginError",
    "PullConnector",
    "Record",
    "Records",
    "Rejected",
    "Secret",
    "Timezone",
    "WindowConfig",
    "WindowDispatcher",
    "category_of",
    "find_zone",
    "suggest",
]
