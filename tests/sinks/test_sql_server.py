"""SQL over HTTP on chDB: what analysts' clients need works, and nothing but reading our tables is possible."""

import json
import os
import shutil
import stat
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from schemas.codec import encode_event
from schemas.errors import OperatorError
from schemas.events import Event
from sinks.chdb_server import Bounds, QueryError, Reader
from sinks.clickhouse import Target, Warehouse
from sinks.rows import LogRecord, build
from sinks.sql_server import SqlServer, read_address

AT = 1_763_000_000_000
PASSWORD = "a-pass:word"


class Served:
    """A migrated database with ten events, its reader and its server."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.warehouse = Warehouse(Target(path=directory / "chdb"))
        self.warehouse.migrate()
        self.insert(0, 10)
        self.reader = Reader(self.warehouse.target.directory, "tidings", Bounds(seconds=5, result_rows=100_000))
        self.server = SqlServer(self.reader, "tidings", password=PASSWORD, address_file=directory / "sql.json")
        self.server.start()
        self.secret = directory / "secret.txt"
        self.secret.write_text("not-for-analysts")

    def insert(self, first: int, end: int) -> None:
        values = [
            encode_event(Event(type="a.b.c", occurred_at_ms=AT, event_id=f"e{n}", member_id="m"))
            for n in range(first, end)
        ]
        records = [LogRecord(first + n, AT, value) for n, value in enumerate(values)]
        self.warehouse.insert("events", build("events", 0, records).columns["events"], f"{first}")

    def ask(
        self, body: str = "", *, headers: dict[str, str] | None = None, **asked: str
    ) -> tuple[int, str, dict[str, str]]:
        url = f"http://127.0.0.1:{self.server.port}/?{urllib.parse.urlencode(asked)}"
        request = urllib.request.Request(
            url, body.encode() or None, {"X-ClickHouse-Key": PASSWORD} if headers is None else headers
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.read().decode(), dict(response.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(), dict(error.headers)

    def close(self) -> None:
        self.server.stop()
        self.reader.close()
        self.warehouse.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    opened = Served(tmp_path_factory.mktemp("sql"))
    yield opened
    opened.close()


# ------------------------------------------------------------------ clients


def test_curl_works_with_basic_login_body_query_and_format(served: Served) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl not found")
    url = f"http://127.0.0.1:{served.server.port}/"
    for arguments in (
        ["-u", f"default:{PASSWORD}", url, "-d", "SELECT count() AS c FROM events FORMAT JSONEachRow"],
        [
            "-u",
            f"default:{PASSWORD}",
            url + "?default_format=JSONEachRow",
            "--data-binary",
            "SELECT count() AS c FROM events",
        ],
        [
            "-H",
            f"X-ClickHouse-Key: {PASSWORD}",
            "-H",
            "X-ClickHouse-Format: JSONEachRow",
            url,
            "-d",
            "SELECT count() AS c FROM events",
        ],
        [
            "-G",
            url,
            "--data-urlencode",
            f"password={PASSWORD}",
            "--data-urlencode",
            "query=SELECT count() AS c FROM events FORMAT JSONEachRow",
        ],
    ):
        found = subprocess.run([curl, "-sS", *arguments], capture_output=True, text=True, timeout=30, check=True).stdout
        assert json.loads(found) == {"c": 10}


def test_the_http_client_of_clickhouse_connect_works(served: Served) -> None:
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=served.server.port, username="default", password=PASSWORD, database="tidings"
    )
    try:
        assert client.ping()
        assert client.query("SELECT event_id FROM events ORDER BY event_id LIMIT 2").result_rows == [("e0",), ("e1",)]
        assert client.query(
            "SELECT count() FROM events WHERE type = {t:String}", parameters={"t": "a.b.c"}
        ).result_rows == [(10,)]
        assert client.query("SELECT 1 WHERE 0").result_rows == []
        assert client.query("SELECT number FROM numbers(70000)").row_count == 70_000
        assert ("events",) in client.query("SHOW TABLES").result_rows
        assert client.command("SELECT uniqExact(event_id) FROM events") == 10
        assert client.raw_query("SELECT 1 AS a", fmt="CSVWithNames") == b'"a"\n1\n'
        assert list(client.query_df("SELECT type, count() AS n FROM events GROUP BY type").columns) == ["type", "n"]
        with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
            client.query("SELECT * FROM nope")
        with pytest.raises(DatabaseError):
            client.command("DROP TABLE events")
    finally:
        client.close()


def test_answers_carry_the_format_and_a_summary(served: Served) -> None:
    status, body, headers = served.ask("SELECT 1 AS a", default_format="JSONCompact", query_id="mine")
    assert (status, json.loads(body)["data"]) == (200, [[1]])
    assert headers["X-ClickHouse-Format"] == "JSONCompact"
    assert headers["X-ClickHouse-Query-Id"] == "mine"
    assert headers["Content-Type"] == "application/json; charset=UTF-8"
    assert json.loads(headers["X-ClickHouse-Summary"])["result_rows"] == "1"


def test_ping_needs_no_login_and_a_query_does(served: Served) -> None:
    url = f"http://127.0.0.1:{served.server.port}/ping"
    with urllib.request.urlopen(url, timeout=10) as response:
        assert response.read() == b"Ok.\n"
    assert served.ask("SELECT 1", headers={})[0] == 401
    status, body, headers = served.ask(
        "SELECT 1", headers={"X-ClickHouse-User": "default", "X-ClickHouse-Key": "wrong"}
    )
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (401, "516")
    assert body.startswith("Code: 516. DB::Exception: ")
    assert PASSWORD not in body
    assert served.ask("SELECT 1", headers={"X-ClickHouse-User": "admin", "X-ClickHouse-Key": PASSWORD})[0] == 401


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [("SELECT (", 400, "62"), ("SELECT * FROM nope", 404, "60"), ("SELECT nope(1)", 404, "46"),
     ("SELECT 1 FORMAT Nope", 404, "73"),
     ("SELECT {x:UInt8}", 400, "456"), ("   ", 400, "62"),
     ("SELECT 1; SELECT 2", 400, "62"), ("SELECT throwIf(1)", 500, "395")],
)  # fmt: skip
def test_errors_have_clickhouses_code_text_and_status(served: Served, query: str, status: int, code: str) -> None:
    got, body, headers = served.ask(query)
    assert (got, headers["X-ClickHouse-Exception-Code"]) == (status, code)
    assert body.startswith(f"Code: {code}. DB::Exception: ")


def test_parameters_are_values_not_sql(served: Served) -> None:
    assert served.ask("SELECT {x:String}", param_x="1') UNION SELECT file('")[1] == "1\\') UNION SELECT file(\\'\n"


def test_the_address_file_is_private_and_goes_with_the_server(tmp_path: Path, served: Served) -> None:
    path = served.directory / "sql.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    address = read_address(path)
    assert address is not None
    assert (address.port, address.password, address.pid) == (served.server.port, PASSWORD, os.getpid())
    assert read_address(tmp_path / "none") is None


def test_a_taken_port_is_told_with_the_setting(served: Served) -> None:
    with pytest.raises(OperatorError, match="TIDINGS_SQL_PORT"):
        SqlServer(served.reader, "tidings", port=served.server.port).start()


# ------------------------------------------------------------------ nothing but reading

ALLOWED = [
    "SELECT * FROM campaign_funnel",
    "SELECT * FROM tidings.events FINAL WHERE type IN ('a.b.c') ORDER BY event_id LIMIT 3 SETTINGS final = 1".replace(
        " SETTINGS final = 1", ""
    ),
    "WITH x AS (SELECT member_id, count() AS n FROM events GROUP BY member_id) SELECT avg(n) FROM x",
    "SELECT e.type, d.reason FROM events AS e LEFT JOIN decisions AS d ON e.member_id = d.member_id",
    "SELECT sum(total) OVER (PARTITION BY type ORDER BY occurred_at) FROM events",
    "SELECT arrayMap(x -> x + 1, range(3)), JSONExtractString(data, 'a'), format('{}', 'x') FROM events",
    "SELECT 'select * from file(1) into outfile'",
    "SELECT 1 AS file, 2 AS url",
    "SELECT toStartOfHour(occurred_at) AS h, uniqExact(event_id) FROM events GROUP BY h ORDER BY h WITH FILL STEP 3600",
    "EXPLAIN SELECT count() FROM events",
    "EXPLAIN indexes = 1 SELECT count() FROM events WHERE type = 'a'",
    "DESCRIBE events",
    "SHOW TABLES",
    "SHOW CREATE TABLE events",
    "EXISTS events",
    "SHOW COLUMNS FROM events",
    "SELECT name FROM system.tables WHERE database = 'tidings'",
    "SELECT table_name FROM information_schema.tables LIMIT 1",
    "SELECT number FROM numbers(3)",
    "SELECT * FROM view(SELECT 1)",
    "SELECT * FROM values('a UInt8', 1, 2)",
    "(SELECT 1) UNION ALL (SELECT 2) -- done",
]


@pytest.mark.parametrize("query", ALLOWED)
def test_a_question_is_answered(served: Served, query: str) -> None:
    status, body, _ = served.ask(query)
    assert status == 200, body


REFUSED = [
    # writes and control
    "INSERT INTO events (type) VALUES ('x')", "INSERT INTO FUNCTION file('{d}/out.csv') SELECT 1",
    "CREATE TABLE x (a Int8) ENGINE = Memory",
    "CREATE TEMPORARY TABLE x (a Int8)", "CREATE VIEW v AS SELECT 1", "CREATE FUNCTION f AS (x) -> x",
    "CREATE USER u", "DROP TABLE events",
    "ALTER TABLE events DELETE WHERE 1", "TRUNCATE TABLE events", "OPTIMIZE TABLE events FINAL",
    "RENAME TABLE events TO y", "GRANT SELECT ON *.* TO default",
    "SYSTEM SHUTDOWN", "SYSTEM FLUSH LOGS", "KILL QUERY WHERE 1", "SET readonly = 0", "USE system",
    "ATTACH TABLE x FROM '{d}' (a Int8) ENGINE = File(TSV)",
    "BACKUP TABLE events TO File('{d}/b')", "SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 SETTINGS max_execution_time = 0", "SELECT 1; DROP TABLE events",
    "SELECT 1 PARALLEL WITH SELECT 2", "DELETE FROM events WHERE 1", "CHECK TABLE events", "SHOW PROCESSLIST",
    "SHOW GRANTS",
    "EXPLAIN INSERT INTO events SELECT * FROM events", "EXPLAIN CREATE TABLE x (a Int8) ENGINE = Memory",
    "EXPLAIN TABLE OVERRIDE mysql('a','b','c','d') PARTITION BY x",
    # files out
    "SELECT 1 INTO OUTFILE '{d}/out.txt'", "SELECT 1 INTO OUTFILE '{d}/out.txt' APPEND FORMAT TSV",
    "SELECT 1 INTO/**/OUTFILE '{d}/out.txt'",
    "SELECT 1 UNION ALL SELECT 2 INTO OUTFILE '{d}/out.txt' TRUNCATE", "EXPLAIN SELECT 1 INTO OUTFILE '{d}/out.txt'",
    # files in
    "SELECT file('{d}/secret.txt')", "SELECT FILE('{d}/secret.txt')", "SELECT `file`('{d}/secret.txt')",
    "SELECT/**/file/**/('{d}/secret.txt')",
    "SELECT file('{d}/secret.txt') AS `a\nb`", "SELECT file('{d}/secret.txt') AS `a\\nb`",
    "SELECT file('{d}/secret.txt') AS \"x (children 1)\"",
    "WITH file('{d}/secret.txt') AS f SELECT f", "SELECT (SELECT file('{d}/secret.txt'))",
    "SELECT 1 WHERE file('{d}/secret.txt') != ''",
    "SELECT arrayMap(x -> file(x), ['{d}/secret.txt'])", "SELECT arrayMap(file, ['{d}/secret.txt'])",
    "SELECT * APPLY file FROM (SELECT '{d}/secret.txt')",
    "SELECT * APPLY(x -> file(x)) FROM (SELECT '{d}/secret.txt')",
    "SELECT COLUMNS('a') APPLY file FROM (SELECT '{d}/secret.txt' AS a)",
    "SELECT * REPLACE(file('{d}/secret.txt') AS a) FROM (SELECT 1 AS a)",
    "SELECT count() FILTER (WHERE file('{d}/secret.txt') = '')",
    "SELECT 1 ORDER BY file('{d}/secret.txt')", "SELECT sum(1) OVER (PARTITION BY file('{d}/secret.txt'))",
    "SELECT '{d}/secret.txt' AS p, file(p)",
    "SELECT * FROM file('{d}/secret.txt', 'LineAsString')",
    "SELECT * FROM (SELECT * FROM file('{d}/secret.txt', 'LineAsString'))",
    "SELECT 1 IN file('{d}/secret.txt', 'LineAsString')",
    "SELECT * FROM view(SELECT * FROM file('{d}/secret.txt', 'LineAsString'))",
    "SELECT * FROM values('a String', file('{d}/secret.txt'))", "DESCRIBE file('{d}/secret.txt')",
    "DESCRIBE TABLE file('{d}/secret.txt', 'LineAsString')",
    "SELECT * FROM `{d}/secret.txt`", "SELECT * FROM default.`{d}/secret.txt`", "SELECT * FROM filesystem('{d}')",
    "SELECT * FROM fileCluster('a', '{d}/secret.txt')",
    "SELECT * FROM sqlite('{d}/x', 'y')", "SELECT * FROM icebergLocal('{d}')",
    "SELECT * FROM deltaLakeLocal('{d}')", "SELECT * FROM Python(x)", "SELECT * FROM python('x')",
    "EXPLAIN SELECT file('{d}/secret.txt')", "EXPLAIN QUERY TREE SELECT file('{d}/secret.txt')",
    # networks, processes, other tables
    "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", "SELECT * FROM s3('http://127.0.0.1:1/a/b', 'TSV')",
    "SELECT * FROM remote('127.0.0.1', system.one)",
    "SELECT * FROM remoteSecure('127.0.0.1', 'system.one')", "SELECT * FROM cluster('a', system.one)",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM executable('id', 'TSV', 'x String')", "SELECT * FROM loop(events)",
    "SELECT * FROM merge('system', '.*')", "SELECT * FROM dictionary('x')",
    "SELECT * FROM eval('SELECT 1')", "SELECT * FROM viewIfPermitted(SELECT 1 ELSE null('a UInt8'))",
    "SELECT * FROM system.processes", "SELECT * FROM system.stack_trace",
    "SELECT * FROM `system`.`disks`", "SELECT 1 IN system.processes", "SELECT 1 IN (system.processes)",
    "SELECT hasColumnInTable('127.0.0.1', 'a', 'b', 'c')",
    "SELECT dictGet('a', 'b', 1)", "SELECT sleep(1)", "SELECT aiGenerate('x')", "SELECT addressToLine(1)",
    "SELECT joinGet('a', 'b', 1)", "SELECT * FROM {t:Identifier}",
    "SELECT * FROM system.{t:Identifier}",
]  # fmt: skip


@pytest.mark.parametrize("query", REFUSED)
def test_what_is_no_question_is_refused(served: Served, query: str) -> None:
    status, body, headers = served.ask(query.replace("{d}", str(served.directory)), param_t="processes")
    assert status != 200, body
    assert "not-for-analysts" not in body
    assert not (served.directory / "out.txt").exists() and not (served.directory / "out.csv").exists()
    assert served.reader.run("SELECT count() >= 10 FROM events").body == b"1\n"


@pytest.mark.parametrize(
    "name",
    [
        "readonly_",
        "allow_ddl",
        "dialect",
        "format_schema",
        "output_format_schema",
        "user_files_path",
        "nope",
        "max_threads'; DROP",
    ],
)
def test_a_setting_that_is_not_listed_is_refused(served: Served, name: str) -> None:
    asked: dict[str, Any] = {name: "1"}
    assert served.ask("SELECT 1", **asked)[0] != 200


def test_a_setting_is_a_value_not_sql(served: Served) -> None:
    status, body, _ = served.ask("SELECT getSetting('log_comment')", log_comment="x', readonly='0")
    assert (status, body) == (200, "x\\', readonly=\\'0\n")


def test_the_system_database_cannot_become_the_default_one(served: Served) -> None:
    assert served.ask("SELECT * FROM processes", database="system")[0] == 403


def test_bounds_hold_and_can_only_be_lowered(served: Served) -> None:
    assert "TOO_MANY_ROWS" in served.ask("SELECT number FROM numbers(200000)", max_result_rows="0")[1]
    assert "TOO_MANY_ROWS" in served.ask("SELECT number FROM numbers(200)", max_result_rows="100")[1]
    status, body, _ = served.ask(
        "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1", max_execution_time="1"
    )
    assert (status, "TIMEOUT_EXCEEDED" in body) == (408, True)


def test_a_query_of_a_megabyte_is_refused_and_the_server_lives(served: Served) -> None:
    assert served.ask("SELECT '" + "x" * 1_100_000 + "'")[0] == 413
    assert served.ask("SELECT 1")[1] == "1\n"


def test_reads_and_inserts_run_side_by_side(served: Served) -> None:
    errors: list[object] = []

    def read() -> None:
        for _ in range(15):
            status, body, _ = served.ask("SELECT count() = uniqExact(event_id) FROM events FINAL")
            if (status, body) != (200, "1\n"):
                errors.append(body)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(15):
        served.insert(100 + n * 10, 110 + n * 10)
    for thread in threads:
        thread.join()
    assert errors == []
    assert served.ask("SELECT count() FROM events")[1] == "160\n"


def test_a_closed_reader_says_so(tmp_path: Path, served: Served) -> None:
    reader = Reader(served.warehouse.target.directory, "tidings")
    reader.close()
    with pytest.raises(QueryError, match="shutting down"):
        reader.run("SELECT 1")
