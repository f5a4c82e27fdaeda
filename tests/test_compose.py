"""The image and the compose file: what can be judged without starting them."""

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from scripts.healthy import connected
from tidings.cli.main import COMMANDS
from tidings.layout import PACKAGES, ROOT

OWN = ("init", "worker-1", "worker-2", "delivery", "sink")
OTHERS = ("kafka", "clickhouse", "schema-registry", "mailpit")


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return loaded


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text(encoding="utf-8")


def setting_names() -> set[str]:
    """Every TIDINGS_* name that tidings/config.py reads."""
    try:
        from tidings.config import documented
    except ImportError:
        return set(re.findall(r"TIDINGS_[A-Z0-9_]+", (ROOT / "tidings" / "config.py").read_text(encoding="utf-8")))
    return {row["name"] for row in documented()}


def test_every_service_is_there() -> None:
    assert set(compose()["services"]) == {*OWN, *OTHERS}


@pytest.mark.parametrize("name", [*OTHERS, "worker-1", "worker-2", "delivery", "sink"])
def test_every_lasting_service_has_a_health_check(name: str) -> None:
    check = compose()["services"][name]["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert check["interval"]
    assert check["retries"]


@pytest.mark.parametrize("name", OTHERS)
def test_foreign_images_are_pinned_to_a_version(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)*", compose()["services"][name]["image"])


@pytest.mark.parametrize("name", ["kafka", "clickhouse", "mailpit", "worker-1", "worker-2", "delivery", "sink"])
def test_what_must_outlive_a_container_lies_on_a_volume_of_its_own(name: str) -> None:
    loaded = compose()
    (mount,) = loaded["services"][name]["volumes"]
    volume, target = mount.split(":")
    assert volume == name
    assert volume in loaded["volumes"]
    if name in OWN:
        assert f"TIDINGS_DATA_DIR={target}" in dockerfile()


def test_every_setting_named_exists() -> None:
    named = {key for name in OWN for key in compose()["services"][name]["environment"]}
    named |= set(
        re.findall(r"TIDINGS_[A-Z0-9_]+", dockerfile() + (ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    )
    assert named - setting_names() == set(), "rename it in docker-compose.yml or add it to tidings/config.py"


def test_settings_of_every_service_can_be_read() -> None:
    from tidings.config import Settings

    for name in OWN:
        env = {
            key: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(v))
            for key, v in compose()["services"][name]["environment"].items()
        }
        assert Settings.from_env(env).broker_kind == "cluster"


def test_every_command_exists() -> None:
    services = compose()["services"]
    words = [services[name]["command"][0] for name in OWN if name != "init"]
    words += re.findall(r"python -m tidings ([\w-]+)", services["init"]["command"][0])
    assert "topics" in words
    assert "clickhouse" in words
    assert set(words) <= set(COMMANDS)


def test_roles_wait_for_topics_and_tables() -> None:
    for name in set(OWN) - {"init"}:
        assert compose()["services"][name]["depends_on"]["init"] == {"condition": "service_completed_successfully"}


def test_published_ports_are_open_to_this_machine_only() -> None:
    for name, service in compose()["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_the_image_holds_every_package_and_puts_our_root_first() -> None:
    text = dockerfile()
    for package in PACKAGES:
        assert f"COPY {package} {package}\n" in text
        assert f"!{package}\n" in (ROOT / ".dockerignore").read_text(encoding="utf-8")
    assert "WORKDIR /srv/app\n" in text
    assert "PYTHONPATH=/srv/app" in text


def test_the_image_installs_by_hash_and_does_not_run_as_root() -> None:
    text = dockerfile()
    assert "--require-hashes -r requirements.lock" in text
    assert re.search(r"^USER (?!root)\w+$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text


TCP_TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0200A8C0:A1B2 0300A8C0:2384 {state} 00000000:00000000 00:00000000 00000000 10001 0 1 1 0 20 4 30 10 -1
"""


@pytest.mark.parametrize(
    ("brokers", "state", "healthy"),
    [
        ("kafka:9092", "01", True),
        ("a:1,kafka:9092", "01", True),
        ("kafka:9092", "02", False),
        ("kafka:9093", "01", False),
    ],
)
def test_healthy_means_an_established_connection_to_a_broker(brokers: str, state: str, healthy: bool) -> None:
    assert connected(brokers, [TCP_TABLE.format(state=state)]) is healthy


def test_docker_compose_accepts_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("needs the docker compose plugin, not found; the file is parsed by the other tests")
    command = [docker, "compose", "-f", str(ROOT / "docker-compose.yml"), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
