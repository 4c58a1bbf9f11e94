"""Tiro's plugins for Karez under their published names, for plugin files of one line.

from tiro.plugins.karez import ConnectorForMockServer as Connector
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiro.plugins.aggregator.arango_db import Aggregator as ArangoAggregator
    from tiro.plugins.aggregator.tiro_validate import Aggregator as ValidationAggregator
    from tiro.plugins.connector.tiro_mock import Connector as ConnectorForMockServer
    from tiro.plugins.converter.filter_by_reference import Converter as TiroFilterByReferenceConverter
    from tiro.plugins.converter.tiro_preprocess import Converter as TiroPreprocessConverter
    from tiro.plugins.converter.update_info_for_value import Converter as TiroUpdateInfoForValueConverter
    from tiro.plugins.dispatcher.tiro_mock import Dispatcher as DispatcherForMockServer

__all__ = [
    "ArangoAggregator",
    "ConnectorForMockServer",
    "DispatcherForMockServer",
    "TiroFilterByReferenceConverter",
    "TiroPreprocessConverter",
    "TiroUpdateInfoForValueConverter",
    "ValidationAggregator",
]

_HOMES = {
    "ArangoAggregator": ("aggregator", "arango_db"),
    "ConnectorForMockServer": ("connector", "tiro_mock"),
    "DispatcherForMockServer": ("dispatcher", "tiro_mock"),
    "TiroFilterByReferenceConverter": ("converter", "filter_by_reference"),
    "TiroPreprocessConverter": ("converter", "tiro_preprocess"),
    "TiroUpdateInfoForValueConverter": ("converter", "update_info_for_value"),
    "ValidationAggregator": ("aggregator", "tiro_validate"),
}


def __getattr__(name: str) -> Any:
    # loaded when asked for: a mock server's plugin must not need the library of ArangoDB
    if name not in _HOMES:
        raise AttributeError(f"module `tiro.plugins.karez` has no `{name}`; there are: {', '.join(__all__)}")
    kind, type_name = _HOMES[name]
    return getattr(import_module(f"tiro.plugins.{kind}.{type_name}"), kind.title())
