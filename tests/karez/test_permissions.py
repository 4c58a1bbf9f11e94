"""What the users of a pipeline may do; `cli/test_cli_nats_config.py` tries on a server that it suffices, and what it keeps from them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from karez.errors import ConfigError
from karez.permissions import users
from karez.pipeline import Pipeline

YAML = """\
dispatchers:
  - {type: default, name: minute, connector: host, entities: [cpu], interval: 60}
connectors:
  - {type: host, converter: [rename, ~]}
converters:
  - {type: rename, keys: {a: b}}
aggregators:
  - {type: echo, on_overflow: detach}
"""


def test_a_role_publishes_only_what_it_makes(pipeline: Callable[..., Pipeline]) -> None:
    found = users(pipeline(YAML), {})
    roles = {"dispatcher.minute", "connector.host", "converter.rename", "aggregator.echo"}
    assert set(found) == roles | {"deployment", "api", "admin"}

    def sent(user: str) -> set[str]:
        return {subject for subject in found[user].publish if subject.startswith("karez.") and ".ctl." not in subject}

    losses = "karez.outcome._"
    assert sent("dispatcher.minute") == {"karez.connector.host", "karez.outcome.minute", losses}
    assert sent("connector.host") == {
        "karez.converter.rename",
        "karez.telemetry.host",
        "karez.outcome.>",
        "karez.dlq.connector.host",
        losses,
    }
    assert sent("converter.rename") == {"karez.telemetry.rename", "karez.dlq.converter.rename", losses}
    assert sent("aggregator.echo") == {"karez.dlq.aggregator.echo", losses}


def test_acknowledgements_are_allowed_in_both_forms_and_for_the_own_durable(pipeline: Callable[..., Pipeline]) -> None:
    connector = users(pipeline(YAML), {})["connector.host"]
    assert {subject for subject in connector.publish if "ACK" in subject} == {
        "$JS.ACK.KAREZ_TASKS.connector_host.>",
        "$JS.ACK.*.*.KAREZ_TASKS.connector_host.>",
    }


def test_only_an_aggregator_that_may_be_detached_removes_its_durable(pipeline: Callable[..., Pipeline]) -> None:
    wanted = "$JS.API.CONSUMER.DELETE.KAREZ_DATA_telemetry.aggregator_echo"
    assert wanted in users(pipeline(YAML), {})["aggregator.echo"].publish
    assert wanted not in users(pipeline(YAML.replace(", on_overflow: detach", "")), {})["aggregator.echo"].publish


def test_a_group_has_the_rights_of_its_roles(pipeline: Callable[..., Pipeline]) -> None:
    found = users(pipeline(YAML), {"near": ["connector", "converter.rename"]})
    assert found["near"] == found["connector.host"] | found["converter.rename"]
    assert found["deployment"].publish >= found["near"].publish
    with pytest.raises(ConfigError, match=r"there is no role nothing"):
        users(pipeline(YAML), {"near": ["nothing"]})


def test_where_nothing_is_stored_a_role_listens_to_its_subject(pipeline: Callable[..., Pipeline]) -> None:
    found = users(pipeline("delivery: at_most_once\n" + YAML), {})
    assert "karez.connector.host" in found["connector.host"].subscribe
    assert "karez.telemetry.>" in found["aggregator.echo"].subscribe
    assert not any("ACK" in subject for subject in found["connector.host"].publish)
