from agents.topics import (
    APP_ID,
    BY_NAME,
    CHANGELOG,
    COMMANDS,
    EVENTS,
    OTP_STATE,
    TABLE,
    TOPICS,
    TopicSpec,
    partitions_of,
)


def test_names_on_kafka_never_change():
    assert [spec.name for spec in TOPICS] == [
        "events",
        "commands",
        "commands-transactional",
        "commands-bulk",
        "member-commands",
        "decisions",
        "attributions",
        "dead-letters",
        "tidings-delivery-sent",
        "tidings-delivery-sent-transactional",
        "tidings-delivery-sent-bulk",
        "tidings-delivery-sms-ids",
        "tidings-inbox",
        "tidings-calls",
        "tidings-otp-state",
        "tidings-engine-members-changelog",
    ]


def test_changelog_is_named_as_faust_derives_it():
    assert f"{APP_ID}-{TABLE}-changelog" == CHANGELOG


def test_events_carry_the_brokers_time_for_the_log_is_the_clock():
    assert BY_NAME[EVENTS].config["message.timestamp.type"] == "LogAppendTime"
    assert BY_NAME[COMMANDS].config["message.timestamp.type"] == "CreateTime"


def test_changelog_is_compacted_and_never_deleted_by_age():
    config = BY_NAME[CHANGELOG].config
    assert config["cleanup.policy"] == "compact"
    assert "retention.ms" not in config


def test_events_are_kept_thirty_days():
    assert int(BY_NAME[EVENTS].config["retention.ms"]) == 30 * 24 * 3600 * 1000


def test_every_topic_has_the_partitions_of_events_unless_it_says_otherwise():
    assert {partitions_of(spec, 12) for spec in TOPICS if spec.name != OTP_STATE} == {12}
    assert partitions_of(BY_NAME[OTP_STATE], 12) == 1
    assert partitions_of(TopicSpec("x", "", "", partitions=1), 12) == 1
