"""One nursery for all trials of a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from madang.testing.postgres import PostgresServer
from madang.testing.trials import Trials


@pytest.fixture(scope="session")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    made = Trials(tmp_path_factory.mktemp("trials"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def database_trials(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer
) -> Iterator[Trials]:
    made = Trials(tmp_path_factory.mktemp("trials"), postgres)
    yield made
    made.close()
