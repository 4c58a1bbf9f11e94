"""What is run in place of the user's configuration."""

from pathlib import Path
from typing import Any

import pytest

from karez.config import load
from karez.errors import ConfigError
from karez.pipeline import Pipeline
from karez.registry import Registry
from karez.verify.derived import PLUGINS, Wanted, derive

CONFIG = """\
dispatchers:
  - {type: default, name: slow, connector: host, entities: [a, $b], interval: 1h, batch_size: 7}
  - {type: default, name: quick, connector: host, entities: [a], interval: 1s}
  - {type: default, name: nightly, connector: web, entities: [a], cron: "0 3 * * *", timezone: Asia/Singapore}
connectors:
  - {type: host, converter: fix_timestamp, concurrency: 3}
  - {type: rest, name: web, base_url: "http://plant:1", security: {type: bearer, token: "${TOKEN}"}}
converters:
  - {type: fix_timestamp}
aggregators:
  - {type: sql, url: "sqlite:///real.sqlite3", batch_records: 9}
"""


def derived(folder: Path, **wanted: Any) -> Pipeline:
    (folder / "own.yaml").write_text(CONFIG)
    configuration = load([folder / "own.yaml"], {"TOKEN": "canary"})
    path = derive(configuration, Pipeline.build(configuration, Registry()), Wanted(**wanted), folder)
    assert path.stat().st_mode & 0o077 == 0
    return Pipeline.build(load([path]), Registry([PLUGINS]))


def test_dispatchers_and_converters_are_the_users_own_sources_and_sinks_are_not(tmp_path: Path) -> None:
    pipeline = derived(tmp_path)
    assert pipeline.dispatchers["slow"].config.batch_size == 7
    assert pipeline.dispatchers["slow"].role.load_entities() == ["a", "$b"]  # type: ignore[attr-defined]
    assert pipeline.converters["fix_timestamp"].plugin.type == "fix_timestamp"
    assert {node.plugin.type for node in pipeline.connectors.values()} == {"verify_source"}
    assert {node.plugin.type for node in pipeline.aggregators.values()} == {"verify_sink"}
    assert pipeline.aggregators["sql"].config.batch_records == 9
    assert "canary" not in (tmp_path / "karez.yaml").read_text()


def test_each_dispatcher_has_a_source_that_knows_its_rounds(tmp_path: Path) -> None:
    pipeline = derived(tmp_path)
    sources = {name: node.targets[0].config for name, node in pipeline.dispatchers.items() if node.targets[0]}
    assert len(pipeline.connectors) == 3
    assert {name: (config.dispatcher, config.interval) for name, config in sources.items()} == {
        "slow": ("slow", 3.0), "quick": ("quick", 1.0), "nightly": ("nightly", 3.0)
    }  # fmt: skip
    assert sources["slow"].concurrency == 3
    assert pipeline.connectors["web"].targets == [None]


def test_rounds_may_be_as_configured(tmp_path: Path) -> None:
    pipeline = derived(tmp_path, interval=0)
    assert pipeline.dispatchers["slow"].config.interval == 3600
    assert pipeline.connectors["web"].config.cron == "0 3 * * *"
    assert str(pipeline.connectors["web"].config.timezone) == "Asia/Singapore"


def test_real_sources_are_the_users_own_and_marked(tmp_path: Path) -> None:
    pipeline = derived(tmp_path, real_sources=True)
    assert {node.plugin.type for node in pipeline.connectors.values()} == {"verify_marked"}
    assert pipeline.connectors["web"].config.real["base_url"] == "http://plant:1"


def test_a_configuration_without_aggregators_cannot_be_verified(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(CONFIG[: CONFIG.index("aggregators:")].replace("${TOKEN}", "x"))
    configuration = load([tmp_path / "own.yaml"])
    with pytest.raises(ConfigError, match="nothing can arrive"):
        derive(configuration, Pipeline.build(configuration, Registry()), Wanted(), tmp_path)
