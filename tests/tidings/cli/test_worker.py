"""The command `worker` as a process of its own: what it prints, how it ends."""

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.topics import TOPICS
from schemas.errors import OperatorError
from tests.helpers.workers import refused, rules_of_codes, running, start
from tidings.brokers.memory import MemoryBroker
from tidings.config import Settings
from tidings.worker import PORT_OFFSETS, ROLES, Launch, _port, unsubscribe_base_url, unsubscribe_secret


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with MemoryBroker({spec.name: 2 for spec in TOPICS} | {"tidings-delivery-sent": 2}) as running:
        yield f"memory://{running.bootstrap}"


@pytest.mark.parametrize("role", ROLES)
def test_a_role_says_where_it_runs_gets_ready_and_ends_on_a_signal_within_ten_seconds(
    role: str, broker: str, tmp_path: Path
) -> None:
    home = tmp_path / f"{role}-0"
    more = {"data_dir": str(tmp_path), "sql_port": "0", "smtp": "smtp://127.0.0.1:9", "otp": rules_of_codes(tmp_path)}
    with running("--role", role, "--web-port", "0", broker=broker, **more) as (process, line):
        assert line.startswith(f"tidings worker {role}: broker {broker}, data {home}, web http://127.0.0.1:")
        assert (home / "web-url").read_text() == line.rpartition("web ")[2].strip()
        began = time.monotonic()
        process.send_signal(signal.SIGINT if role == "sink" else signal.SIGTERM)
        out, errors = process.communicate(timeout=30)
        assert time.monotonic() - began < 10
        assert process.returncode == 0, errors
        assert out == ""
    for line in errors.splitlines():
        assert line.startswith("{"), "logs are JSON, without banners"
    assert '"event": "worker stopped"' in errors
    assert not (home / "web-url").exists()


def test_two_workers_of_a_directory_are_refused_and_another_instance_is_not(broker: str, tmp_path: Path) -> None:
    here = {"broker": broker, "data_dir": str(tmp_path), "smtp": "smtp://127.0.0.1:9"}
    with running("--role", "delivery", "--web-port", "0", **here):
        code, errors = refused("--role", "delivery", "--web-port", "0", **here)
        assert code == 2
        assert errors == (
            f"{tmp_path / 'delivery-0'}: another worker uses this data directory; stop it, or give this worker its own:"
            " --instance N\n"
        )
        other = start("--role", "delivery", "--instance", "1", "--web-port", "0", **here)
        assert other.stdout is not None
        assert f"data {tmp_path / 'delivery-1'}, " in other.stdout.readline()
        other.kill()
        other.communicate()


def test_a_data_directory_that_cannot_be_used_ends_the_command_with_2_and_names_the_setting(
    broker: str, tmp_path: Path
) -> None:
    place = tmp_path / "data"
    place.write_text("")  # a file stands there; rights mean nothing to root
    code, errors = refused("--role", "engine", "--web-port", "0", broker=broker, data_dir=str(place))
    assert code == 2
    assert errors.startswith(f"{place / 'engine-0'}: cannot be used (got ") and "check TIDINGS_DATA_DIR" in errors


def test_a_broker_that_does_not_answer_ends_the_command_with_3(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, and nobody listens
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        began = time.monotonic()
        code, errors = refused("--role", "engine", "--broker", address, data_dir=str(tmp_path))
    assert code == 3
    assert f"TIDINGS_BROKER: no useful answer from {address}" in errors
    assert time.monotonic() - began < 30


def test_the_memory_broker_of_another_process_needs_its_address(tmp_path: Path) -> None:
    code, errors = refused("--role", "engine", data_dir=str(tmp_path))
    assert code == 3
    assert "memory://host:port" in errors


def test_a_taken_port_ends_the_command_with_3(broker: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, errors = refused("--role", "engine", "--web-port", str(port), broker=broker, data_dir=str(tmp_path))
    assert code == 3
    assert f"cannot listen (got 127.0.0.1:{port}: Address already in use); set --web-port to a free port" in errors


def launch(tmp_path: Path, **settings: str) -> Launch:
    made = Settings.from_env({f"TIDINGS_{name.upper()}": value for name, value in settings.items()})
    return Launch(made, "engine", tmp_path, 6066, "t", 8)


def test_ports_of_roles_and_instances_never_meet() -> None:
    ports = [_port(Settings(), role, instance) for role in PORT_OFFSETS for instance in range(20)]
    assert len(set(ports)) == 20 * len(PORT_OFFSETS)
    assert ports[0] == 6066


def test_static_membership_stays_with_the_data(tmp_path: Path) -> None:
    first = launch(tmp_path / "a", broker="k:1").group_instance_id
    assert first == launch(tmp_path / "a", broker="k:1").group_instance_id
    assert first != launch(tmp_path / "b", broker="k:1").group_instance_id
    assert launch(tmp_path / "c", broker="memory://k:1").group_instance_id is None


@pytest.mark.parametrize(("host", "url"), [("10.0.0.7", "http://10.0.0.7:6066"), ("::1", "http://[::1]:6066")])
def test_other_workers_are_told_the_address_that_is_listened_on(tmp_path: Path, host: str, url: str) -> None:
    assert launch(tmp_path, broker="k:1", web_host=host).url == url


def test_other_workers_are_told_a_name_where_all_addresses_are_listened_on(tmp_path: Path) -> None:
    assert launch(tmp_path, broker="k:1", web_host="0.0.0.0").url == f"http://{socket.gethostname()}:6066"


def test_links_are_signed_by_the_setting_or_by_a_kept_secret(tmp_path: Path) -> None:
    place = {"TIDINGS_DATA_DIR": str(tmp_path)}
    kept = unsubscribe_secret(Settings.from_env(place))
    assert len(kept) >= 32
    assert unsubscribe_secret(Settings.from_env(place)) == kept
    given = Settings.from_env(place | {"TIDINGS_UNSUBSCRIBE_SECRET": "x" * 16})
    assert unsubscribe_secret(given) == b"x" * 16
    with pytest.raises(OperatorError, match="16 characters or more"):
        unsubscribe_secret(Settings.from_env(place | {"TIDINGS_UNSUBSCRIBE_SECRET": "short"}))


def test_links_lead_to_the_worker_itself_only_while_mail_stays_on_this_machine(tmp_path: Path) -> None:
    assert unsubscribe_base_url(launch(tmp_path)) == "http://127.0.0.1:6066/u"
    given = {"unsubscribe_base_url": "https://shop.example/leave", "smtp": "smtps://mail.example"}
    assert unsubscribe_base_url(launch(tmp_path, **given)) == "https://shop.example/leave"
    with pytest.raises(OperatorError, match="TIDINGS_UNSUBSCRIBE_BASE_URL: must be set when mail leaves this machine"):
        unsubscribe_base_url(launch(tmp_path, smtp="smtps://mail.example"))
