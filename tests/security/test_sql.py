"""SQL from a hostile analyst: reading our tables within its bounds, and nothing else."""

import gzip
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from sinks.chdb_server import Bounds, QueryError, Reader
from tests.sinks.test_sql_server import PASSWORD, Served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    opened = Served(tmp_path_factory.mktemp("sql"))
    yield opened
    opened.close()


def doubled(levels: int) -> str:
    more = [f"a{n} AS (SELECT * FROM a{n - 1} UNION ALL SELECT * FROM a{n - 1})" for n in range(1, levels)]
    return f"WITH a0 AS (SELECT 1), {', '.join(more)} SELECT count() FROM a{levels - 1}"


# ------------------------------------------------------------------ who asks


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
@pytest.mark.parametrize(
    "login",
    [
        {},
        {"X-ClickHouse-Key": "wrong"},
        {"X-ClickHouse-Key": ""},
        {"X-ClickHouse-User": "admin", "X-ClickHouse-Key": PASSWORD},
        {"Authorization": "Basic ZGVmYXVsdDp3cm9uZw=="},
        {"Authorization": "Basic !!"},
        {"Authorization": f"Bearer {PASSWORD}"},
        {"X-ClickHouse-Key": f"{PASSWORD} "[:-2]},
    ],
)
def test_without_the_password_every_method_is_answered_401_and_nothing_else(
    served: Served, method: str, login: dict[str, str]
) -> None:
    url = f"http://127.0.0.1:{served.server.port}/?query=SELECT+*+FROM+events"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url, method=method, headers=login), timeout=10)
    error = refused.value
    assert error.code == 401
    said = error.read().decode() + str(error.headers)
    assert served.reader.version not in said and served.reader.timezone not in said
    assert "aiohttp" not in said.lower() and "a.b.c" not in said


def test_the_routes_without_a_password_are_the_two_pings(served: Served) -> None:
    for path, status in (("/ping", 200), ("/replicas_status", 200), ("/play", 404), ("/dashboard", 404), ("/js", 404)):
        try:
            answer = urllib.request.urlopen(f"http://127.0.0.1:{served.server.port}{path}", timeout=10)
            assert (answer.status, answer.read()) == (status, b"Ok.\n")
        except urllib.error.HTTPError as error:
            assert error.code == status


# ------------------------------------------------------------------ ways around the guard

BYPASSES = [
    # comments, line breaks, spellings and quoting
    "/* SELECT 1 */ DROP TABLE events", "-- SELECT 1\nDROP TABLE events", "SELECT 1 -- \n; DROP TABLE events",
    "SELECT 1; DROP TABLE events;", "SELECT 1\x00; DROP TABLE events", "SELECT file/**/\n('{d}/secret.txt')",
    'SELECT "file"(\'{d}/secret.txt\')', "SELECT ｆｉｌｅ('{d}/secret.txt')", "SELECT fIlE('{d}/secret.txt')",
    "SELECT file(unhex('2F')||'{d}/secret.txt')", "SELECT\u00a0file('{d}/secret.txt')", "\ufeffDROP TABLE events",
    # places where a function or a query may stand
    "SELECT 1 LIMIT file('{d}/secret.txt')", "SELECT * FROM numbers(file('{d}/secret.txt'))",
    "SELECT * FROM events PREWHERE file('{d}/secret.txt') = ''", "SELECT 1 HAVING file('{d}/secret.txt') = ''",
    "SELECT count() FROM events GROUP BY file('{d}/secret.txt')", "SELECT 1 QUALIFY file('{d}/secret.txt') = ''",
    "SELECT sumIf(1, file('{d}/secret.txt') = '')", "SELECT arrayFold((a, x) -> file(x), ['{d}/secret.txt'], '')",
    "SELECT (SELECT (SELECT file('{d}/secret.txt')))", "SELECT EXISTS(SELECT * FROM file('{d}/secret.txt', 'Raw'))",
    "WITH x AS (SELECT * FROM file('{d}/secret.txt', 'LineAsString')) SELECT * FROM x",
    "WITH RECURSIVE x AS (SELECT file('{d}/secret.txt') AS t UNION ALL SELECT t FROM x) SELECT * FROM x LIMIT 1",
    "SELECT 1 UNION ALL SELECT file('{d}/secret.txt')", "SELECT 1 INTERSECT SELECT file('{d}/secret.txt')",
    "SELECT * FROM events JOIN file('{d}/secret.txt', 'LineAsString') AS f ON 1",
    "SELECT CASE WHEN 1 THEN file('{d}/secret.txt') END", "SELECT file('{d}/secret.txt') OVER ()",
    "SELECT * FROM loop(numbers(3))", "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT 1))",
    # views, dictionaries, engines that reach out
    "CREATE VIEW v AS SELECT file('{d}/secret.txt')", "CREATE MATERIALIZED VIEW v ENGINE = Null AS SELECT 1",
    "CREATE DICTIONARY x (a Int8) PRIMARY KEY a SOURCE(FILE(path '{d}/secret.txt' format 'TSV')) LAYOUT(FLAT())",
    "CREATE TABLE x (a String) ENGINE = URL('http://127.0.0.1:1/', 'TSV')", "SYSTEM RELOAD DICTIONARIES",
    "SELECT * FROM dictionary('x')", "SELECT dictGetString('x', 'y', 1)", "CREATE DATABASE x ENGINE = Filesystem('/')",
    "CREATE NAMED COLLECTION c AS url = 'http://127.0.0.1:1'", "CREATE FUNCTION f AS () -> file('{d}/secret.txt')",
    # networks and processes
    "SELECT * FROM urlCluster('a', 'http://127.0.0.1:1/')", "SELECT * FROM s3Cluster('a', 'http://127.0.0.1:1/b/c')",
    "SELECT * FROM gcs('http://127.0.0.1:1/b/c')", "SELECT * FROM hdfs('hdfs://127.0.0.1:1/a', 'TSV')",
    "SELECT * FROM azureBlobStorage('http://127.0.0.1:1', 'a', 'b')", "SELECT * FROM redis('127.0.0.1:1', 'a', 'b')",
    "SELECT * FROM mongodb('mongodb://127.0.0.1:1/a', 'b', 'c String')", "SELECT * FROM clusterAllReplicas('a', b.c)",
    "SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')", "SELECT * FROM odbc('DSN=a', 'b', 'c')",
    "SELECT * FROM jdbc('jdbc:a', 'b', 'c')", "SELECT * FROM executable('cat {d}/secret.txt', 'TSV', 'a String')",
    "SELECT * FROM remote('127.0.0.1:1', view(SELECT 1))", "SELECT * FROM mergeTreeIndex('tidings', 'events')",
    # settings and formats
    "SELECT 1 SETTINGS max_memory_usage = 0", "SELECT 1 SETTINGS max_execution_time = 0, readonly = 0",
    "SELECT * FROM (SELECT 1 SETTINGS max_result_rows = 0)", "SELECT (SELECT 1 SETTINGS max_memory_usage = 0)",
    "WITH x AS (SELECT 1 SETTINGS max_execution_time = 0) SELECT * FROM x", "EXPLAIN SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 UNION ALL (SELECT 2 SETTINGS function_range_max_elements_in_block = 1000000000)",
    "SET max_execution_time = 0", "SET ROLE ALL",
    "SELECT 1 FORMAT Template SETTINGS format_template_row = '{d}/secret.txt'",
    "SELECT 1 FORMAT Protobuf SETTINGS format_schema = '{d}/secret.txt:x'", "SELECT 1 FORMAT DataFrame",
    "SELECT 1 FORMAT ArrowTable", "INSERT INTO events FORMAT TSV\n1", "INSERT INTO events SELECT * FROM events",
    # out of the database, into the process
    "SELECT 1 FROM (SELECT 1) FORMAT Null INTO OUTFILE '{d}/out.txt'", "SELECT * FROM system.users",
    "SELECT 1 INTO OUTFILE '{d}/out.txt' TRUNCATE COMPRESSION 'gzip'", "SELECT * FROM system.query_log",
    "SELECT * FROM system.named_collections", "SELECT * FROM system.server_settings", "SELECT * FROM system.text_log",
    "SYSTEM STOP MERGES", "SYSTEM DROP REPLICA 'a'", "SHOW CREATE USER default", "SHOW ACCESS", "EXECUTE AS x SELECT 1",
    "EXPLAIN AST DROP TABLE events", "EXPLAIN CURRENT TRANSACTION", "BEGIN TRANSACTION", "UNDROP TABLE events",
    "EXCHANGE TABLES events AND decisions", "MOVE USER a TO b", "DETACH TABLE events PERMANENTLY",
    "KILL MUTATION WHERE 1",
]  # fmt: skip


@pytest.mark.parametrize("query", BYPASSES)
def test_no_way_leads_around_the_guard(served: Served, query: str) -> None:
    status, body, _ = served.ask(query.replace("{d}", str(served.directory)))
    assert status not in (200, 500) or (status == 500 and body.startswith("Code: ")), body
    assert "not-for-analysts" not in body
    assert not (served.directory / "out.txt").exists()
    assert served.reader.run("SELECT count() = 10 FROM events").body == b"1\n"


@pytest.mark.parametrize("name", ["dataframe", "DataFrame", "arrowtable", "ArrowTable", "../x", "", "x" * 100])
def test_a_format_that_is_none_of_clickhouses_is_refused(served: Served, name: str) -> None:
    status, body, _ = served.ask("SELECT 1", default_format=name)
    assert (status, "73" in body) == (404, True) if name else status == 200


# ------------------------------------------------------------------ bounds


@pytest.fixture(scope="module")
def small(served: Served) -> Iterator[Reader]:
    # A minute: on a slow machine, too, the bound that a query meets first is the one that its test names.
    bounds = Bounds(seconds=60, result_rows=1_000, result_bytes=100_000, memory_bytes=64 << 20)
    reader = Reader(served.warehouse.target.directory, "tidings", bounds)
    yield reader
    reader.close()


def test_a_query_without_end_is_ended_at_its_time(served: Served) -> None:
    reader = Reader(served.warehouse.target.directory, "tidings", Bounds(seconds=1))
    with pytest.raises(QueryError) as refused:
        reader.run("SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1")
    assert refused.value.name == "TIMEOUT_EXCEEDED"
    reader.close()


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("SELECT number FROM numbers(1001)", "TOO_MANY_ROWS_OR_BYTES"),
        ("SELECT repeat('x', 200000)", "TOO_MANY_ROWS_OR_BYTES"),
        ("SELECT length(groupArray(number)) FROM numbers(100000000)", "MEMORY_LIMIT_EXCEEDED"),
        ("SELECT uniqExact(sipHash64(number)) FROM numbers(100000000)", "MEMORY_LIMIT_EXCEEDED"),
        ("SELECT arrayStringConcat(arrayMap(x -> repeat('a', 1000000), range(1000)))", "MEMORY_LIMIT_EXCEEDED"),
        ("SELECT replaceAll(repeat('a', 1000000), 'a', repeat('b', 1000))", "MEMORY_LIMIT_EXCEEDED"),
        ("SELECT count() FROM numbers(1000000000) AS a, numbers(1000000000) AS b", "MEMORY_LIMIT_EXCEEDED"),
        (
            "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r",
            "TOO_DEEP_RECURSION",
        ),
        ("SELECT length(range(20000000))", "ARGUMENT_OUT_OF_BOUND"),
        ("SELECT " + "(" * 2_000 + "1" + ")" * 2_000, "TOO_DEEP_RECURSION"),
        ("SELECT " + "not " * 5_000 + "1", "TOO_DEEP_AST"),
        ("WITH 1 AS a0, " + ", ".join(f"a{n} + a{n} AS a{n + 1}" for n in range(40)) + " SELECT a40", "BAD_ARGUMENTS"),
        (doubled(40), "ACCESS_DENIED"),
        ("SELECT editDistance(repeat('a', 60000), repeat('b', 60000))", "ACCESS_DENIED"),
        ("SELECT arrayMap(levenshteinDistance, ['a'], ['b'])", "ACCESS_DENIED"),
    ],
)
def test_what_takes_too_much_is_ended(small: Reader, query: str, name: str) -> None:
    with pytest.raises(QueryError) as refused:
        small.run(query)
    assert refused.value.name == name


def test_with_queries_that_build_on_each_other_or_on_our_tables_are_answered(small: Reader) -> None:
    chain = ", ".join(f"a{n} AS (SELECT * FROM a{n - 1} WHERE 1)" for n in range(1, 20))
    assert small.run(f"WITH a0 AS (SELECT 1 AS x), {chain} SELECT x FROM a19").body == b"1\n"
    joined = ", ".join(f"b{n} AS (SELECT count() AS c FROM events AS x JOIN events AS y ON 1)" for n in range(10))
    assert small.run(f"WITH {joined} SELECT b0.c FROM b0").body == b"100\n"
    assert small.run(doubled(4)).body == b"8\n"


@pytest.mark.parametrize("settings", [{"max_block_size": "10000000"}, {"max_threads": "1000"}, {"max_threads": "-1"}])
def test_a_step_cannot_be_made_larger(small: Reader, settings: dict[str, str]) -> None:
    (name,) = settings
    got = int(small.run(f"SELECT getSetting('{name}')", settings=settings).body)
    assert 1 <= got <= 65_409
    assert small.run(f"SELECT getSetting('{name}')", settings={name: "1"}).body == b"1\n"


def test_a_query_that_unpacks_to_gigabytes_is_refused(served: Served) -> None:
    bomb = gzip.compress(b"SELECT 1" + b" " * (50 << 20), 1)
    for headers in ({}, {"Content-Encoding": "gzip"}):
        request = urllib.request.Request(
            f"http://127.0.0.1:{served.server.port}/", bomb, {"X-ClickHouse-Key": PASSWORD, **headers}
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=20)
        assert refused.value.code == 413
    request = urllib.request.Request(
        f"http://127.0.0.1:{served.server.port}/", gzip.compress(b"SELECT 42"), {"X-ClickHouse-Key": PASSWORD}
    )
    assert urllib.request.urlopen(request, timeout=20).read() == b"42\n"
