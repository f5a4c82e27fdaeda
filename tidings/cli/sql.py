"""`sql`: ask the ClickHouse server of the settings, the process that owns chDB, or chDB itself when it is idle."""

import http.client
import json
import sys
from typing import Any
from urllib.parse import urlencode, urlsplit

import click

from schemas.errors import OperatorError
from sinks.chdb_server import QueryError
from sinks.sql_server import HOST, USER, read_address
from tidings.analytics import address_file, read_chdb, target_of
from tidings.cli.output import output_option, print_rows
from tidings.config import Settings

SECONDS = 120
FORMAT_OF = {"table": "JSONCompact", "json": "JSONCompact", "ndjson": "JSONEachRow"}
# Counts are numbers to people and to jq; they stay far below 2^53.
NUMBERS = {"output_format_json_quote_64bit_integers": "0"}


@click.command()
@click.argument("query")
@output_option
def sql(query: str, output: str) -> None:
    """Ask ClickHouse and print the answer.

    A FORMAT clause in QUERY wins over --output; QUERY may be - for standard input.

    \b
    Examples:
      python -m tidings sql "SELECT * FROM campaign_funnel"
      python -m tidings sql "SELECT reason, uniqExact(decision_id) FROM decisions GROUP BY reason" --output json
      python -m tidings sql "SELECT * FROM events FINAL LIMIT 10 FORMAT CSVWithNames" > events.csv
    """
    text = sys.stdin.read() if query == "-" else query
    settings = Settings.from_env()
    wanted = FORMAT_OF[output]
    body, answered = _ask(settings, text, wanted)
    if answered == wanted == "JSONCompact":
        _print_compact(json.loads(body), output)
    else:
        click.get_binary_stream("stdout").write(body)


def _ask(settings: Settings, query: str, wanted: str) -> tuple[bytes, str]:
    if settings.clickhouse != "chdb":
        parts = urlsplit(settings.clickhouse)
        port = parts.port or (8443 if parts.scheme == "https" else 8123)
        return _post(
            parts.scheme,
            parts.hostname or "",
            port,
            settings,
            settings.clickhouse_user,
            settings.clickhouse_password,
            query,
            wanted,
        )
    address = read_address(address_file(settings))
    if address is not None:
        password = settings.sql_password or address.password
        try:
            return _post("http", HOST, address.port, settings, USER, password, query, wanted)
        except OperatorError as error:
            if error.exit_code != 3:
                raise
            # Nobody listens: its writer was killed and left the file. chDB is free then, or its lock says who has it.
    try:
        with read_chdb(settings) as reader:
            answer = reader.run(query, default_format=wanted, settings=NUMBERS)
            return answer.body, answer.format
    except QueryError as error:
        raise OperatorError(f"sql: {error.message} ({error.name})") from None


def _post(
    scheme: str, host: str, port: int, settings: Settings, user: str, password: str, query: str, wanted: str
) -> tuple[bytes, str]:
    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=SECONDS)
    path = "/?" + urlencode({"database": target_of(settings).database, "default_format": wanted, **NUMBERS})
    try:
        connection.request("POST", path, query.encode(), {"X-ClickHouse-User": user, "X-ClickHouse-Key": password})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise OperatorError(
            f"sql: nothing answers at {scheme}://{host}:{port} (got {type(error).__name__}); start 'up' or a worker"
            " with role sink, or set TIDINGS_CLICKHOUSE to your server",
            exit_code=3,
        ) from None
    finally:
        connection.close()
    if response.status != 200:
        raise OperatorError(f"sql: {body.decode('utf-8', 'replace').strip() or response.reason}")
    return body, response.getheader("X-ClickHouse-Format", wanted)


def _print_compact(answer: dict[str, Any], output: str) -> None:
    names = [column["name"] for column in answer["meta"]]
    print_rows([dict(zip(names, row, strict=True)) for row in answer["data"]], output, columns=names)
