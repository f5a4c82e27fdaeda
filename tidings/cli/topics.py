"""`topics create|show|check`: what `agents/topics.py` declares against what the broker has."""

import sys

import click

from agents.topics import BY_NAME, TOPICS, partitions_of
from tidings.brokers import admin as broker_admin
from tidings.brokers import attach
from tidings.cli.output import output_option, print_rows
from tidings.config import Settings

broker_option = click.option(
    "--broker",
    metavar="local|HOST:PORT,…",
    help="The broker to ask; default TIDINGS_BROKER. 'local' finds the one that runs on TIDINGS_DATA_DIR.",
)


@click.group()
def topics() -> None:
    """Create, show and check topics.

    \b
    Examples:
      python -m tidings topics create --broker local
      python -m tidings topics show --output json
      TIDINGS_BROKER=broker-1:9092 python -m tidings topics check

    Exit codes: 0 done, 1 differences, 2 wrong usage or setting, 3 the broker is out of reach.
    """  # noqa: D301 click wants the character itself


@topics.command()
@broker_option
@click.option("--alter", is_flag=True, help="Also correct the configuration of topics that exist.")
@output_option
def create(broker: str | None, alter: bool, output: str) -> None:
    """Create the topics that do not exist; those that do keep their records.

    \b
    Examples:
      python -m tidings topics create --broker local
      python -m tidings topics create --broker broker-1:9092 --alter
    """  # noqa: D301 click wants the character itself
    settings = attach(Settings.from_env(broker=broker))
    outcome = broker_admin.create_topics(settings, alter=alter)
    print_rows(
        [
            {"topic": name, "partitions": partitions_of(BY_NAME[name], settings.partitions), "result": result}
            for name, result in outcome.items()
        ],
        output,
    )


@topics.command()
@broker_option
@output_option
def show(broker: str | None, output: str) -> None:
    """Show each topic as the broker has it.

    \b
    Examples:
      python -m tidings topics show --broker local
      python -m tidings topics show --output ndjson
    """  # noqa: D301 click wants the character itself
    settings = attach(Settings.from_env(broker=broker))
    print_rows(
        [
            {
                "topic": spec.name,
                "key": spec.key,
                "value": spec.value,
                "partitions": state.partitions or "missing",
                "replication": state.replication,
                **{
                    name: state.config.get(name)
                    for name in ("cleanup.policy", "retention.ms", "message.timestamp.type")
                },
            }
            for spec, state in zip(TOPICS, broker_admin.describe(settings), strict=True)
        ],
        output,
    )


@topics.command()
@broker_option
@output_option
def check(broker: str | None, output: str) -> None:
    """Compare the broker with the declaration; exit code 1 and one row with a remedy per difference.

    \b
    Examples:
      python -m tidings topics check --broker local
      python -m tidings topics check --output json
    """  # noqa: D301 click wants the character itself
    settings = attach(Settings.from_env(broker=broker))
    found = broker_admin.check(settings)
    if found or output != "table":
        columns = ("topic", "setting", "declared", "actual", "remedy")
        print_rows([{name: getattr(row, name) for name in columns} for row in found], output, columns)
    else:
        click.echo(f"{len(TOPICS)} topics are as declared")
    if found:
        sys.exit(1)
