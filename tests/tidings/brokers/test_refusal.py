"""A Kafka that asks for a password: the right one works in every role, a wrong one is told at the start and later."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.workers import refused, rules_of_codes, running
from tidings.brokers.admin import create_topics
from tidings.brokers.local import LocalBroker, _free_port
from tidings.config import Settings
from tidings.worker import ROLES

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

LIMIT_S = 240.0
WORDS = "TIDINGS_SASL_USERNAME and TIDINGS_SASL_PASSWORD"


class Guarded:
    """A broker with a listener that asks for a user and a password; `start` again to change the password."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.address = f"127.0.0.1:{_free_port(0)}"
        self.broker: LocalBroker | None = None

    def start(self, password: str) -> None:
        self.stop()
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        more = [
            f"listeners=PLAINTEXT://{{host}}:{{port}},CONTROLLER://{{host}}:{{controller_port}},ASKS://{self.address}",
            f"advertised.listeners=PLAINTEXT://{{host}}:{{port}},ASKS://{self.address}",
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,ASKS:SASL_PLAINTEXT",
            "listener.name.asks.sasl.enabled.mechanisms=PLAIN",
            f'listener.name.asks.plain.sasl.jaas.config={module} required user_shop="{password}";',
        ]
        cache = Settings.from_env({}).cache_dir
        self.broker = LocalBroker(self._home, cache, heap_mb=256, more="\n".join(more) + "\n")

    def stop(self) -> None:
        if self.broker is not None:
            self.broker.stop()

    def settings(self, password: str) -> dict[str, str]:
        return {
            "broker": self.address, "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN",
            "sasl_username": "shop", "sasl_password": password, "sql_port": "0", "smtp": "smtp://127.0.0.1:9",
        }  # fmt: skip


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    made = Guarded(tmp_path_factory.mktemp("kafka"))
    made.start("right")
    env = {f"TIDINGS_{name.upper()}": value for name, value in made.settings("right").items()}
    create_topics(Settings.from_env({**env, "TIDINGS_PARTITIONS": "2", "TIDINGS_REPLICATION": "1"}))
    yield made
    made.stop()


@pytest.mark.parametrize("role", ROLES)
def test_a_wrong_password_ends_the_start_with_3_names_the_settings_and_leaves_nothing_behind(
    guarded: Guarded, role: str, tmp_path: Path
) -> None:
    code, errors = refused("--role", role, data_dir=str(tmp_path), **guarded.settings("wr0ng"))
    assert code == 3
    assert WORDS in errors and "refused by" in errors
    assert "wr0ng" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(900)  # four starts of Kafka or of three workers, and 15 s in which a broker may change its mind
def test_a_password_that_no_longer_holds_ends_workers_with_3_and_the_right_one_goes_on(
    guarded: Guarded, tmp_path: Path
) -> None:
    def all_roles(password: str) -> dict[str, AbstractContextManager[Any]]:
        settings = {"data_dir": str(tmp_path), "otp": rules_of_codes(tmp_path), **guarded.settings(password)}
        return {role: running("--role", role, "--web-port", "0", **settings) for role in ROLES}

    with ExitStack() as stack:
        processes = {role: stack.enter_context(worker)[0] for role, worker in all_roles("right").items()}
        # Read all the time: a worker that nobody listens to stands still in what it says of a broker that is away.
        pool = stack.enter_context(ThreadPoolExecutor(len(ROLES)))
        ends = {role: pool.submit(process.communicate, None, LIMIT_S) for role, process in processes.items()}
        guarded.start("changed")
        for role, end in ends.items():
            errors = end.result()[1]
            assert processes[role].returncode == 3, (role, errors[-2_000:])
            assert any(line.startswith(WORDS) for line in errors.splitlines()), (role, errors[-2_000:])
    for worker in all_roles("changed").values():
        with worker:
            pass
