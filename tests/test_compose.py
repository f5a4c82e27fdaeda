"""The image and the compose file: what can be judged without starting them."""

import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.healthy import healthy
from tidings.cli.main import COMMANDS
from tidings.layout import PACKAGES, ROOT
from tidings.worker import PORT_OFFSETS

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
        from tidings.settings_table import documented
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
    assert "campaigns" in words
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


class Health(BaseHTTPRequestHandler):
    """A worker's /health."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


def test_healthy_means_that_each_worker_of_the_data_directory_answers(tmp_path: Path) -> None:
    assert not healthy(tmp_path), "no worker, or one that has not come so far"
    with ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        (tmp_path / "delivery-0").mkdir()
        (tmp_path / "delivery-0" / "web-url").write_text(f"http://127.0.0.1:{server.server_address[1]}")
        assert healthy(tmp_path)
        (tmp_path / "engine-0").mkdir()
        (tmp_path / "engine-0" / "web-url").write_text("http://127.0.0.1:9")
        assert not healthy(tmp_path)
        server.shutdown()


@pytest.mark.parametrize("name", ["worker-1", "worker-2", "delivery", "sink"])
def test_every_role_is_asked_at_its_own_endpoint(name: str) -> None:
    assert compose()["services"][name]["healthcheck"]["test"] == ["CMD", "python", "scripts/healthy.py"]
    assert 'CMD ["python", "scripts/healthy.py"]' in dockerfile()


def test_the_broker_is_of_the_version_that_the_tests_run_against() -> None:
    pom = (ROOT / "tidings" / "brokers" / "kafka.pom.xml").read_text(encoding="utf-8")
    (version,) = re.findall(r"<artifactId>kafka_2\.13</artifactId>\s*<version>([\d.]+)</version>", pom)
    assert compose()["services"]["kafka"]["image"] == f"apache/kafka:{version}"


def test_there_are_two_engines_one_delivery_and_one_sink_of_our_image() -> None:
    services = compose()["services"]
    roles = sorted(s["command"][2] for s in services.values() if s.get("command", [""])[0] == "worker")
    assert roles == ["delivery", "engine", "engine", "sink"]
    assert {services[name]["image"] for name in OWN} == {"tidings:local"}


def test_init_publishes_campaigns_that_the_image_holds() -> None:
    (directory,) = re.findall(r"campaigns publish (\S+)", compose()["services"]["init"]["command"][0])
    assert list((ROOT / directory).glob("*.yaml"))
    assert "COPY campaigns campaigns\n" in dockerfile()


def test_links_in_mails_lead_to_the_delivery_that_signs_them() -> None:
    services = compose()["services"]
    port = int(services["worker-1"]["environment"]["TIDINGS_WEB_PORT"]) + PORT_OFFSETS["delivery"]
    assert services["delivery"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert services["delivery"]["environment"]["TIDINGS_WEB_HOST"] == services["delivery"]["hostname"]
    for name in OWN:
        environment = services[name]["environment"]
        assert environment["TIDINGS_UNSUBSCRIBE_BASE_URL"] == f"http://localhost:{port}/u"
        assert environment["TIDINGS_UNSUBSCRIBE_SECRET"] == "${TIDINGS_UNSUBSCRIBE_SECRET:-only-on-this-machine}"


def test_docker_compose_accepts_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("needs the docker compose plugin, not found; the file is parsed by the other tests")
    command = [docker, "compose", "-f", str(ROOT / "docker-compose.yml"), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
