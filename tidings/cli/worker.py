"""`worker`: one role of the product, one process."""

import click

from tidings import logs
from tidings.config import Settings

ROLES = ("engine", "delivery", "sink", "otp")  # as in tidings/worker.py, whose imports take a second


@click.command()
@click.option("--role", type=click.Choice(ROLES), required=True, help="What this process does.")
@click.option("--broker", metavar="ADDRESS", help="Wins over TIDINGS_BROKER: local, memory://host:port or host:port,…")
@click.option(
    "--instance", type=click.IntRange(0, 19), default=0, show_default=True,
    help="Number of this worker among those of its role on this data directory.",
)  # fmt: skip
@click.option(
    "--web-port", type=click.IntRange(0, 65_535),
    help="Where /health, /ready and /metrics listen; 0: any free port. Default: TIDINGS_WEB_PORT (engine), "
    "+20 (delivery), +40 (sink), +60 (otp), + instance.",
)  # fmt: skip
def worker(role: str, broker: str | None, instance: int, web_port: int | None) -> None:
    """Run one role against a broker until SIGTERM or SIGINT, which it obeys within seconds.

    engine decides, delivery sends, sink writes to ClickHouse, otp gives out one-time codes. Each worker keeps its own
    state below TIDINGS_DATA_DIR in ROLE-INSTANCE/ and is the only one to use it. More engines: --instance 1, 2, …

    \b
    Examples:
      python -m tidings worker --role engine
      python -m tidings worker --role engine --instance 1
      python -m tidings worker --role delivery --broker broker-1:9092,broker-2:9092
      curl -H "Authorization: Bearer $(cat data/web-token)" http://127.0.0.1:6066/metrics

    Exit codes: 0 ended by a signal, 1 failed while it ran, 2 wrong setting or directory in use, 3 broker or port out of
    reach.
    """
    settings = Settings.from_env(broker=broker)
    logs.set_up(settings.log_level)
    from tidings.worker import run_worker

    run_worker(settings, role, instance=instance, web_port=web_port)
