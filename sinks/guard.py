"""Judges a query by ClickHouse's own reading of it, before it runs. Pure.

`readonly = 1` does not refuse everything that leaves a database: in chDB the function `file('/etc/…')` reads any file,
and INTO OUTFILE writes one. So the server has ClickHouse parse the text twice. `formatQuerySingleLine` proves that it
is one statement and gives its canonical spelling. EXPLAIN AST of that spelling, which runs nothing, names every
statement kind, table, function and table function in it. What is not known to be harmless is refused, and what runs is
the spelling that was judged.
"""

import math
import re
from collections.abc import Iterable

import msgspec

READONLY, ACCESS_DENIED = 164, 497

STATEMENTS = frozenset(
    {
        "SelectWithUnionQuery", "SelectIntersectExceptQuery", "ShowTables", "ShowColumns", "ShowIndexes",
        "ShowFunctions", "ShowEngineQuery",
        "ShowCreateTableQuery", "ShowCreateViewQuery", "ShowCreateDatabaseQuery", "DescribeQuery",
        "ExistsTableQuery", "ExistsViewQuery", "ExistsDatabaseQuery",
    }
)  # fmt: skip
EXPLAINS = frozenset({"", "AST", "SYNTAX", "QUERY TREE", "PIPELINE", "ESTIMATE"})
EXPLAINED = frozenset({"SelectWithUnionQuery", "Identifier", "Set"})
# Table functions that compute from their arguments alone. `view` holds a query, whose parts are judged like any others.
TABLE_FUNCTIONS = frozenset(
    {
        "numbers",
        "numbers_mt",
        "zeros",
        "zeros_mt",
        "primes",
        "values",
        "generateseries",
        "generate_series",
        "generaterandom",
        "view",
        "null",
    }
)
# Categories of system.functions that reach out of the database or into the process.
REFUSED_CATEGORIES = frozenset({"AI", "Dictionary", "Embedded Dictionary", "Introspection", "Machine Learning"})
# `hasColumnInTable` connects to a host, `sleep*` and `throwIf`-like helpers are no analysis, `joinGet` names a table
# in a text. Distances between texts take the product of their lengths in one step that no time limit interrupts.
REFUSED_FUNCTIONS = frozenset(
    {"editdistance", "editdistanceutf8", "levenshteindistance", "levenshteindistanceutf8", "dameraulevenshteindistance",
     "arraylevenshteindistance", "arraylevenshteindistanceweighted", "arraysimilarity", "generateserialid", "fuzzquery",
     "file", "hascolumnintable", "sleep", "sleepeachrow", "joinget", "joingetornull", "catboostevaluate",
     "evalmlmethod",
     "getclienthttpheader", "showcertificate", "structuretocapnprotoschema", "structuretoprotobufschema"}
)  # fmt: skip
# What clients read to list tables, columns, types and settings. Processes, users, disks and traces are not among them.
SYSTEM_TABLES = frozenset(
    {
        "aggregate_function_combinators", "build_options", "collations", "columns", "constraints", "contributors",
        "data_skipping_indices", "data_type_families", "database_engines", "databases", "dictionaries", "errors",
        "events", "formats", "functions",
        "keywords", "licenses", "macros", "merge_tree_settings", "merges", "metrics", "mutations", "numbers",
        "numbers_mt", "one",
        "parts", "parts_columns", "projections", "settings", "table_engines", "table_functions", "tables", "time_zones",
        "warnings", "zeros", "zeros_mt",
    }
)  # fmt: skip
# How often a WITH query may be repeated inside the others: they are expanded before any limit counts.
EXPANSIONS_MAX = 256
NODE = re.compile(r"^( *)(\S+) ?(.*)$")
# Texts in single quotes, names in backquotes (group 1), and parameters that stand for a name.
QUOTED = re.compile(r"'(?:\\.|''|[^'\\])*'|`((?:\\.|[^`\\])*)`|(\{\s*\w+\s*:\s*Identifier\s*\})")


class Refusal(msgspec.Struct, frozen=True):
    """Why a query may not run, as ClickHouse words it. `code`: ClickHouse's number, `name` its name."""

    code: int
    name: str
    message: str


class Names(msgspec.Struct, frozen=True):
    """What the engine knows: our database and its tables, all databases, refused functions' names (lower case)."""

    database: str
    databases: frozenset[str]
    refused: frozenset[str]
    tables: frozenset[str] = frozenset()


def refused_names(functions: Iterable[tuple[str, str]], table_functions: Iterable[str]) -> frozenset[str]:
    """Collect refused names from system.functions (name, categories) and system.table_functions.

    A table function may stand on the right of IN, where the tree shows it as any function; so its name is refused
    everywhere, unless an ordinary harmless function has the same name (`format`).
    """
    listed = [(name.lower(), {part.strip() for part in categories.split(",")}) for name, categories in functions]
    harmless = {name for name, categories in listed if not categories & REFUSED_CATEGORIES} - REFUSED_FUNCTIONS
    refused = {name for name, categories in listed if categories & REFUSED_CATEGORIES}
    tables = {name.lower() for name in table_functions} - TABLE_FUNCTIONS
    return frozenset(refused | REFUSED_FUNCTIONS | (tables - harmless))


def judge_text(canonical: str) -> Refusal | None:
    """Judge the canonical spelling for what the tree would not show plainly; None when there is nothing of the kind."""
    for match in QUOTED.finditer(canonical):
        if match[1] and "\\" in match[1]:
            # A line break in a name would look like one more node of the tree.
            return _denied("names with control characters, quotes or backslashes")
        if match[2]:
            return _denied("parameters of type Identifier")
    return None


def judge(tree: str, names: Names) -> Refusal | None:
    """Judge the text of EXPLAIN AST, one node per line, indented by its depth; None when the query may run.

    `judge_text` must have passed: then no line of the tree comes from inside a name, and texts are printed escaped.
    """
    path: list[str] = []
    references: list[int] = []  # of each WITH query, those to what may be another one
    open_: list[tuple[int, int]] = []  # (depth, place in `references`) of the WITH queries around this line
    for number, line in enumerate(tree.rstrip("\n").split("\n")):
        match = NODE.match(line)
        if match is None:
            return _denied("a part that this server does not know")
        depth, kind = len(match[1]), match[2]
        detail = match[3].split(" (alias ")[0].split("(alias ")[0].split("(children ")[0].strip()
        del path[depth:]
        refusal = _statement(kind, detail) if number == 0 else _node(kind, detail, path, names)
        if refusal is not None:
            return refusal
        path.append(kind)
        while open_ and open_[-1][0] >= depth:
            open_.pop()
        if kind == "WithElement":
            open_.append((depth, len(references)))
            references.append(0)
        elif kind == "TableIdentifier" and "." not in detail and detail not in names.tables:
            for _, place in open_:
                references[place] += 1
    if math.prod(max(1, count) for count in references) > EXPANSIONS_MAX:
        return _denied(f"WITH queries that repeat each other more than {EXPANSIONS_MAX} times")
    return None


def _statement(kind: str, detail: str) -> Refusal | None:
    if kind in STATEMENTS:
        return None
    if kind == "Explain" and detail.removeprefix("EXPLAIN").strip() in EXPLAINS:
        return None
    return Refusal(
        READONLY, "READONLY", f"Cannot execute query in readonly mode: this server answers queries only, not {kind}"
    )


def _node(kind: str, detail: str, path: list[str], names: Names) -> Refusal | None:
    parent = path[-1] if path else ""
    if (
        kind == "Literal"
        and len(path) == 1
        and parent in ("SelectWithUnionQuery", "SelectIntersectExceptQuery", "Explain")
    ):
        return _denied("INTO OUTFILE")
    if path == ["Explain"] and kind not in EXPLAINED:
        return _denied(f"EXPLAIN of {kind}")
    if kind == "Set" and path != ["Explain"]:
        return _denied("SETTINGS")  # ClickHouse checks those of the outermost query only
    if kind == "ColumnsApplyTransformer":
        return _denied("APPLY, which hides the function it calls")
    if kind == "Function":
        name = detail.lower()
        if parent == "TableExpression" and name not in TABLE_FUNCTIONS:
            return _denied(f"table function {detail}")
        return _denied(f"function {detail}") if name in names.refused else None
    if kind == "TableIdentifier":
        return _table(detail, names)
    if kind == "Identifier":
        # A function's name as an argument (arrayMap(file, …)), or a table on the right of IN.
        if detail.lower() in names.refused and parent == "ExpressionList" and len(path) > 1 and path[-2] == "Function":
            return _denied(f"function {detail}")
        return _table(detail, names, column=True) if "." in detail else None
    return None


def _table(detail: str, names: Names, column: bool = False) -> Refusal | None:
    first, _, rest = detail.partition(".")
    if not rest or first == names.database or first.lower() == "information_schema":
        return None
    if first == "system":
        # `system.one.dummy` is a column of a table we look at in its own place.
        return None if rest.partition(".")[0] in SYSTEM_TABLES else _denied(f"table {detail}")
    if column and first not in names.databases:
        return None  # alias.column
    return _denied(f"database {first}")


def _denied(what: str) -> Refusal:
    return Refusal(ACCESS_DENIED, "ACCESS_DENIED", f"Not enough privileges: this server does not allow {what}")
