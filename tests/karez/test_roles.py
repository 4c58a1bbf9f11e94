import logging
from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from karez import roles
from karez.roles import AggregatorConfig, Config, ConnectorConfig, ConverterConfig, DispatcherConfig


def dispatcher(**options):
    return DispatcherConfig(**{"type": "default", "connector": "c", "interval": 10, **options})


def test_the_name_is_the_type_unless_given():
    assert Config(type="modbus").name == "modbus"
    assert Config(type="modbus", name="boiler.1").name == "boiler.1"


@pytest.mark.parametrize("name", ["", "a b", "a>b", "a*", "a/b", "../x", "x" * 65, "a\n", "ä", None, 7])
def test_a_name_that_cannot_be_a_subject_is_refused(name):
    with pytest.raises(ValidationError):
        Config(type="modbus", name=name)


def test_an_unknown_option_is_refused():
    with pytest.raises(ValidationError, match="Extra inputs"):
        dispatcher(conector="x")


def test_every_shared_option_has_a_docstring():
    for config in (DispatcherConfig, ConnectorConfig, ConverterConfig, AggregatorConfig):
        for name, option in config.model_fields.items():
            assert option.description, name
            assert option.description.endswith("."), name


def test_a_number_that_is_none_is_refused():
    class Own(ConverterConfig):
        factor: float = 1.0
        """Factor."""

    for number in (float("nan"), float("inf")):
        with pytest.raises(ValidationError, match="finite"):
            Own(type="scale", factor=number)


def test_by_default_nothing_is_warned_of():
    assert list(Config(type="x").warnings()) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"interval": None}, "needs an `interval`"),
        ({"cron": "* * * * *"}, "exclude each other"),
        ({"interval": 0}, "greater than or equal to 0.001"),
        ({"interval": -1}, "greater than or equal to 0.001"),
        ({"interval": "10x"}, "is not a duration"),
        ({"interval": None, "cron": "every day"}, "is not a cron expression"),
        ({"interval": None, "cron": ""}, "is not a cron expression"),
        ({"interval": None, "cron": "61 * * * *"}, "Bad minute"),
        ({"batch_size": 0}, "greater than or equal to 1"),
        ({"batch_size": "many"}, "valid integer"),
        ({"mode": "brust"}, "'burst', 'rand', 'even', 'rand_mixed' or 'even_mixed'"),
        ({"timezone": "Aisa/Singapore"}, "did you mean `Asia/Singapore`"),
        ({"connector": ["a"]}, "valid string"),
        ({"missed": "none"}, "'skip', 'latest' or 'all'"),
        ({"overlap": "drop"}, "'skip', 'queue' or 'coalesce'"),
        ({"entities_refresh": -1}, "greater than or equal to 0"),
    ],
)
def test_a_dispatcher_refuses_what_cannot_be_meant(options, reason):
    with pytest.raises(ValidationError, match=reason):
        dispatcher(**options)


def test_a_dispatcher_takes_an_interval_or_a_cron_expression():
    assert dispatcher(interval="1m").interval == 60
    by_cron = dispatcher(interval=None, cron="*/5 * * * *", timezone="Europe/Madrid")
    assert by_cron.timezone.key == "Europe/Madrid"
    assert dispatcher().timezone.key == "UTC"
    assert dispatcher(mode="even_mixed").mode is roles.Mode.EVEN_MIXED


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        (["a", None], ["a", None]),
        (["a", ""], ["a", None]),
        (["a", False], ["a", None]),
        (False, [None]),
        ("", [None]),
        ([], []),
        (None, None),
    ],
)
def test_one_name_is_a_list_of_one_and_what_is_empty_means_the_aggregators(written, names):
    assert ConnectorConfig(type="x", converter=written).converter == names
    assert ConverterConfig(type="x", next=written).next == names


@pytest.mark.parametrize("written", [7, {"a": 1}, [["a"]], [7]])
def test_what_is_no_name_is_refused(written):
    with pytest.raises(ValidationError):
        ConverterConfig(type="x", next=written)


def test_records_go_through_converters_or_become_entities():
    assert ConnectorConfig(type="x", connector="readings").connector == "readings"
    with pytest.raises(ValidationError, match="exclude each other"):
        ConnectorConfig(type="x", connector="readings", converter="a")


@pytest.mark.parametrize(
    "options", [{"concurrency": 0}, {"task_timeout": 0}, {"invalid": "null"}, {"batch_size": 0}, {"exclusive": ""}, {"rate_limit": "fast"}]
)
def test_a_connector_refuses_what_cannot_be_meant(options):
    with pytest.raises(ValidationError):
        ConnectorConfig(type="x", **options)


def test_an_aggregator_reads_json_as_it_is_written():
    assert AggregatorConfig(type="x").json_ is True
    assert AggregatorConfig(type="x", json=False).json_ is False
    with pytest.raises(ValidationError, match="Extra inputs"):
        AggregatorConfig(type="x", json_=False)


@pytest.mark.parametrize(
    "options", [{"category": "a b"}, {"category": "a.b"}, {"category": ""}, {"batch_records": 0}, {"linger": 61}, {"linger": -1}]
)
def test_an_aggregator_refuses_what_cannot_be_meant(options):
    with pytest.raises(ValidationError):
        AggregatorConfig(type="x", **options)


async def test_a_role_does_no_work_of_its_own():
    for role, method, arguments in (
        (roles.Dispatcher(dispatcher()), "load_entities", []),
        (roles.PullConnector(ConnectorConfig(type="x")), "fetch", [[]]),
        (roles.PullConnector(ConnectorConfig(type="x")), "fetch_range", [[], None, None]),
        (roles.PullConnector(ConnectorConfig(type="x")), "discover", []),
        (roles.ListenConnector(ConnectorConfig(type="x")), "listen", []),
        (roles.Converter(ConverterConfig(type="x")), "convert", [{}]),
        (roles.Converter(ConverterConfig(type="x")), "convert_many", [[]]),
        (roles.Aggregator(AggregatorConfig(type="x")), "write", [[]]),
    ):
        assert role.open() is None
        assert role.close() is None
        with pytest.raises(NotImplementedError):
            getattr(role, method)(*arguments)
    assert roles.PullConnector(ConnectorConfig(type="x")).check() is None


def test_a_role_logs_under_its_kind_and_name():
    assert roles.Converter(ConverterConfig(type="x", name="y")).log is logging.getLogger("karez.converter.y")


def test_a_converter_leaves_the_category_as_it_is_unless_it_says_otherwise():
    assert ConverterConfig(type="x").categories({"telemetry"}) == {"telemetry"}


def test_batches_cover_all_entities_in_order():
    role = roles.Dispatcher(dispatcher(batch_size=3))
    assert role.batches(list(range(7))) == [[0, 1, 2], [3, 4, 5], [6]]
    assert role.batches(()) == []


def test_a_path_is_read_as_a_shell_does():
    assert roles.path_option("~/x") == Path.home() / "x"
    assert roles.path_option("a/b") == Path("a/b")


def test_an_own_option_keeps_its_docstring_as_its_description():
    class Own(ConverterConfig):
        factor: float = Field(default=1.0)
        """Factor that values are multiplied with."""

    assert Own.model_fields["factor"].description == "Factor that values are multiplied with."


@pytest.mark.parametrize(
    ("options", "device"),
    [
        ({"url": "opc.tcp://user:secret@plc:4840/path"}, "plc:4840"), ({"base_url": "http://10.0.0.1/api"}, "10.0.0.1"),
        ({"host": "plc", "port": 502}, "plc:502"), ({"host": "plc"}, "plc"), ({"url": "COM1"}, "COM1"), ({}, "connector x"),
    ],
)  # fmt: skip
def test_the_device_of_an_entity_is_in_the_options_unless_the_plugin_knows_better(options, device):
    class Options(ConnectorConfig):
        url: str | None = None
        base_url: str | None = None
        host: str | None = None
        port: int | None = None

    role = roles.PullConnector(Options(type="x", **options))
    assert role.device_of("a") == device
    assert (role.account(), role.leave("a"), role.count_requests(["a"])) == ("", None, None)
