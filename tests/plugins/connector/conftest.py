"""The real databases of the aggregators' tests, for those of the connectors."""

from tests.plugins.aggregator.conftest import mariadb, postgres, start_postgres

__all__ = ["mariadb", "postgres", "start_postgres"]
