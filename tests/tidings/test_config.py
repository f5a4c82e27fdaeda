import dataclasses

import pytest

from schemas.errors import OperatorError
from tidings.config import Settings
from tidings.settings_table import documented

SASL = {
    "TIDINGS_BROKER": "k1:9092,k2:9092",
    "TIDINGS_SECURITY_PROTOCOL": "sasl_ssl",
    "TIDINGS_SASL_USERNAME": "shop",
    "TIDINGS_SASL_PASSWORD": "hush",
}


def refusal(**env: str) -> str:
    with pytest.raises(OperatorError) as caught:
        Settings.from_env({f"TIDINGS_{name}": value for name, value in env.items()})
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_empty_environment_gives_the_declared_defaults():
    assert Settings.from_env({}) == Settings()
    assert Settings().broker == "memory"
    assert Settings().partitions == 8


def test_names_outside_our_prefix_are_ignored():
    assert Settings.from_env({"PATH": "x", "KAFKA_BROKER": "y"}) == Settings()


def test_unknown_name_is_refused_with_the_nearest_one():
    assert refusal(BROKR="local") == "TIDINGS_BROKR: no such setting; did you mean 'TIDINGS_BROKER'?"


def test_bad_number_names_its_place_its_bounds_and_a_remedy():
    expected = "TIDINGS_PARTITIONS: must be a whole number from 1 to 1024 (got 'x'); set a number such as 8"
    assert refusal(PARTITIONS="x") == expected


@pytest.mark.parametrize("value", ["0", "1025", "-1", "1.5", "", "9" * 30])
def test_number_beyond_its_bounds_is_refused(value):
    assert "TIDINGS_PARTITIONS: must be a whole number" in refusal(PARTITIONS=value)


@pytest.mark.parametrize("value", ["1", "1024", " 8 "])
def test_number_at_its_bounds_is_taken(value):
    assert Settings.from_env({"TIDINGS_PARTITIONS": value}).partitions == int(value)


def test_every_fault_is_reported_at_once():
    assert len(refusal(PARTITIONS="x", BROKER="nowhere", LOG_LEVEL="inf", TYPO="1").splitlines()) == 4


@pytest.mark.parametrize(
    "value", ["", "Memory", "host", "host:0", "host:65536", "host:9092;b:1", "memory://", "kafka://a:1"]
)
def test_broker_that_is_neither_ours_nor_an_address_is_refused(value):
    assert "TIDINGS_BROKER: must be memory, local or a list" in refusal(BROKER=value)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("memory", "memory"),
        ("local", "local"),
        ("memory://127.0.0.1:9", "memory"),
        ("local://127.0.0.1:9", "local"),
        ("a:1, b:2", "cluster"),
        ("[::1]:9092", "cluster"),
    ],
)
def test_broker_kind_follows_from_the_value(value, kind):
    assert Settings.from_env({"TIDINGS_BROKER": value}).broker_kind == kind


def test_broker_not_yet_opened_has_no_address():
    with pytest.raises(OperatorError, match="TIDINGS_BROKER: 'memory' is a broker to start") as caught:
        Settings().confluent()
    assert caught.value.exit_code == 3


def test_child_process_reads_back_equal_settings():
    settings = Settings.from_env({"TIDINGS_WEB_TOKEN": "t", "TIDINGS_DATA_DIR": "/tmp/x"}).with_broker("127.0.0.1:7")
    assert settings.environment()["TIDINGS_BROKER"] == "memory://127.0.0.1:7"
    assert Settings.from_env(settings.environment()) == settings
    assert settings.bootstrap == "127.0.0.1:7"


def test_options_of_a_command_win_over_the_environment_and_absent_ones_do_not():
    settings = Settings.from_env({"TIDINGS_BROKER": "local", "TIDINGS_PARTITIONS": "3"}, broker="a:1", partitions=None)
    assert (settings.broker, settings.partitions) == ("a:1", 3)


def test_secret_is_shown_neither_in_repr_nor_in_errors():
    assert "hush" not in repr(Settings.from_env(SASL))
    assert "sasl_password='***'" not in repr(Settings())
    secrets = [f for f in dataclasses.fields(Settings) if f.metadata["secret"]]
    assert {f.name for f in secrets} >= {"sasl_password", "web_token", "smtp_password", "clickhouse_password"}


def test_password_inside_a_url_is_refused_without_showing_it():
    message = refusal(CLICKHOUSE="https://me:hush@db:8443")
    assert "TIDINGS_CLICKHOUSE_PASSWORD" in message
    assert "hush" not in message


def test_sasl_needs_name_and_password():
    message = refusal(BROKER="k:1", SECURITY_PROTOCOL="SASL_SSL")
    assert "TIDINGS_SASL_USERNAME" in message
    assert "TIDINGS_SASL_PASSWORD" in message


def test_certificate_without_key_is_refused():
    assert "certificate and key go together" in refusal(
        BROKER="k:1", SECURITY_PROTOCOL="SSL", SSL_CERTIFICATE_LOCATION="c"
    )


def test_own_brokers_refuse_security_they_do_not_have():
    assert "'local' is PLAINTEXT on loopback" in refusal(BROKER="local", SECURITY_PROTOCOL="SSL")


def test_security_reaches_librdkafka_and_faust_alike():
    settings = Settings.from_env(SASL | {"TIDINGS_SASL_MECHANISM": "scram-sha-256"})
    config = settings.confluent()
    assert (config["security.protocol"], config["sasl.mechanism"]) == ("SASL_SSL", "SCRAM-SHA-256")
    assert (config["sasl.username"], config["sasl.password"]) == ("shop", "hush")
    credentials = settings.faust_credentials
    assert (credentials.protocol.value, credentials.mechanism.value) == ("SASL_SSL", "SCRAM-SHA-256")
    assert settings.faust_broker_url == "kafka://k1:9092;kafka://k2:9092"


def test_plaintext_has_no_credentials():
    assert Settings.from_env({"TIDINGS_BROKER": "k:1"}).faust_credentials is None


def test_unreadable_certificate_is_an_operators_error():
    settings = Settings.from_env(
        {"TIDINGS_BROKER": "k:1", "TIDINGS_SECURITY_PROTOCOL": "SSL", "TIDINGS_SSL_CA_LOCATION": "/nowhere"}
    )
    with pytest.raises(OperatorError, match="TIDINGS_SSL_CA_LOCATION"):
        _ = settings.faust_credentials


def test_librdkafka_takes_what_we_compose():
    from confluent_kafka import Consumer, Producer

    settings = Settings.from_env({"TIDINGS_BROKER": "127.0.0.1:1"})
    Producer(settings.confluent(linger_ms=5, log_level=0, error_cb=lambda _: None))
    Consumer(settings.confluent_consumer("g", {"fetch.message.max.bytes": 1_000_000}, log_level=0)).close()


def test_memory_broker_gets_short_sessions_and_short_fetches():
    memory = Settings().with_broker("127.0.0.1:1")
    cluster = dataclasses.replace(memory, broker="127.0.0.1:1")
    assert (memory.group_session_timeout_ms, memory.fetch_wait_ms) == (6_000, 20)
    assert (cluster.group_session_timeout_ms, cluster.fetch_wait_ms) == (45_000, 500)


def test_every_setting_is_documented_with_unit_default_and_reason():
    rows = documented()
    assert [row["name"] for row in rows] == [f"TIDINGS_{f.name.upper()}" for f in dataclasses.fields(Settings)]
    assert all(row["unit"] and row["default"] and row["reason"] for row in rows)


def test_every_default_would_be_accepted_from_the_environment():
    for spec in dataclasses.fields(Settings):
        assert spec.metadata["parse"](str(spec.default)) == spec.default


def test_a_dkim_key_and_its_selector_go_together():
    assert "TIDINGS_DKIM_KEY: key and selector go together" in refusal(DKIM_KEY="key.pem")
    assert "TIDINGS_DKIM_KEY: key and selector go together" in refusal(DKIM_SELECTOR="s1")
