"""A landing file's rows as a table of the engine: values as the file has them, each with its line.

Here: Parquet, CSV and JSON Lines, compression, encodings, lines that are not rows. Not here: what a column must hold
(rules) and which columns must be there (columns).

`stage` fills the temporary table `arrived`: `_line` (physical line of a text file, where its record begins; row number of
a Parquet file), `_broken` (the payload of a line that is no row, else null), and `c0, c1, …` in the order of the file.
Nothing is guessed: a file that cannot be decoded is refused whole, so that no column can shift.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from nightmarket.errors import LandingRejected
from nightmarket.landing.finding import LandingFile
from nightmarket.shops import format_of

# Rows that Python holds at once on their way into the engine: some 30 MB for a table of ten columns.
_ROWS_AT_ONCE = 50_000
_CHARACTERS_AT_ONCE = 64_000_000
_MOST_COLUMNS = 1000
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a long text is a row to set aside, not an unreadable file


@dataclass(frozen=True)
class FileColumn:
    """A column of a file: its name there, the column of `arrived` that holds it, and its type in the engine or JSON."""

    name: str
    slot: str
    sql_type: str
    found: str | None = None


@dataclass(frozen=True)
class Staged:
    """What `stage` put into `arrived`."""

    format: str
    rows: int
    columns: tuple[FileColumn, ...]


class _Number(str):
    """The digits of a JSON number as they were written, so that 0.1 stays 0.1."""


def stage(connection: duckdb.DuckDBPyConnection, file: LandingFile, *, flat: frozenset[str]) -> Staged:
    """Fill `arrived` with a file's rows; `flat` names the columns in which JSON Lines may not hold objects or lists.

    Raises:
        LandingRejected: the file is truncated, not what its ending says, or not UTF-8; names the place.
    """
    kind = format_of(file.path)
    if kind == "parquet":
        return _parquet(connection, file) if file.size else _nothing(connection, kind)
    reader = _csv if kind == "csv" else _jsonl
    try:
        with _text(file.path) as stream:
            return reader(connection, file, stream, flat)
    except UnicodeDecodeError as error:
        _refuse(file, f"is not UTF-8: {_where_undecodable(file.path)}. Save it as UTF-8", error)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        _refuse(
            file,
            f"is no whole gzip file ({error}); it was probably cut while it was copied. Copy it again",
            error,
        )
    except OSError as error:
        _refuse(file, f"cannot be read: {error.strerror or error}", error)


def _refuse(file: LandingFile, why: str, cause: BaseException | None = None) -> NoReturn:
    raise LandingRejected(f"{file.name} (table {file.table}) {why}. Nothing of the file was kept.") from cause


def _nothing(connection: duckdb.DuckDBPyConnection, kind: str) -> Staged:
    _make(connection, 0)
    return Staged(kind, 0, ())


def _make(connection: duckdb.DuckDBPyConnection, columns: int) -> None:
    slots = "".join(f", c{i} varchar" for i in range(columns))
    connection.execute(f"create or replace temp table arrived (_line bigint, _broken varchar{slots})")


def _parquet(connection: duckdb.DuckDBPyConnection, file: LandingFile) -> Staged:
    source = "read_parquet(?, file_row_number = true, binary_as_string = true, hive_partitioning = false)"
    try:
        names = pq.read_schema(file.path).names
        described = connection.execute(
            f"describe select * exclude (file_row_number) from {source}", [str(file.path)]
        )
        columns = [
            (name, read_as, sql_type)
            for name, (read_as, sql_type, *_) in zip(names, described.fetchall(), strict=True)
            if not name.startswith(
                "__index_level_"
            )  # a data frame's row numbers, which its writer did not mean
        ]
        listed = "".join(
            f', "{read_as.replace(chr(34), chr(34) * 2)}" as c{i}'
            for i, (_, read_as, _t) in enumerate(columns)
        )
        connection.execute(
            f"create or replace temp table arrived as select file_row_number + 1 as _line, null::varchar as _broken{listed} "
            f"from {source}",
            [str(file.path)],
        )
    except (duckdb.Error, pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        _refuse(
            file,
            f"is no whole Parquet file ({reason}); it was probably cut while it was copied. Copy it again",
            error,
        )
    rows = _count(connection)
    return Staged("parquet", rows, tuple(FileColumn(n, f"c{i}", t) for i, (n, _, t) in enumerate(columns)))


def _csv(
    connection: duckdb.DuckDBPyConnection, file: LandingFile, stream: IO[str], flat: frozenset[str]
) -> Staged:
    reader = csv.reader(stream, strict=True)
    try:
        header = next((row for row in reader if row), None)
    except csv.Error as error:
        _refuse(file, f"has a header that is no CSV ({error})", error)
    if header is None:
        return _nothing(connection, "csv")
    header = [name.strip() or f"column {i + 1}" for i, name in enumerate(header)]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        _refuse(
            file, f"has the column {', '.join(map(repr, twice))} twice in its header; give each its own name"
        )
    if len(header) > _MOST_COLUMNS:
        _refuse(file, f"has {len(header)} columns, more than {_MOST_COLUMNS}")
    _make(connection, len(header))
    rows = 0
    for lines, good, broken in _csv_rows(file, reader, len(header)):
        rows += len(lines) + len(broken)
        _insert(connection, lines, list(zip(*good, strict=True)), len(header), broken)
    return Staged("csv", rows, tuple(FileColumn(name, f"c{i}", "VARCHAR") for i, name in enumerate(header)))


def _csv_rows(
    file: LandingFile, reader: Any, width: int
) -> Iterator[tuple[list[int], list[list[str]], list[tuple[int, str]]]]:
    """(lines, rows, broken lines with what is wrong) a piece at a time; a blank line is no row."""
    while True:
        lines: list[int] = []
        good: list[list[str]] = []
        broken: list[tuple[int, str]] = []
        size = 0
        while len(good) < _ROWS_AT_ONCE and size < _CHARACTERS_AT_ONCE:
            line = reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    _refuse(file, f"opens a quote in the record of line {line} and never closes it", error)
                broken.append((line, f"the quotes of the record do not match ({error})"))
                continue
            if row is None:
                yield lines, good, broken
                return
            if len(row) == width:
                lines.append(line)
                good.append(row)
                size += sum(map(len, row))
            elif row:
                broken.append((line, f"{len(row)} fields where the header has {width}"))
        yield lines, good, broken


def _jsonl(
    connection: duckdb.DuckDBPyConnection, file: LandingFile, stream: IO[str], flat: frozenset[str]
) -> Staged:
    _make(connection, 0)
    found: dict[str, set[str]] = {}
    rows = 0
    for lines, objects, broken in _jsonl_rows(stream, flat):
        for name in {name: None for read in objects for name in read}:
            if name not in found:
                if len(found) == _MOST_COLUMNS:
                    _refuse(file, f"has more than {_MOST_COLUMNS} different names in its objects")
                connection.execute(f"alter table arrived add column c{len(found)} varchar")
                found[name] = set()
        rows += len(lines) + len(broken)
        columns = [_as_texts([read.get(name) for read in objects], found[name]) for name in found]
        _insert(connection, lines, columns, len(found), broken)
    kinds = {name: "/".join(sorted(kinds)) or "null" for name, kinds in found.items()}
    return Staged(
        "jsonl", rows, tuple(FileColumn(n, f"c{i}", "VARCHAR", kinds[n]) for i, n in enumerate(found))
    )


def _jsonl_rows(
    stream: IO[str], flat: frozenset[str]
) -> Iterator[tuple[list[int], list[dict[str, Any]], list[tuple[int, str]]]]:
    """(lines, objects, broken lines with what is wrong) a piece at a time; a blank line is no row."""
    decode = json.JSONDecoder(parse_float=_Number, parse_constant=_no_number).decode
    lines: list[int] = []
    objects: list[dict[str, Any]] = []
    broken: list[tuple[int, str]] = []
    size = 0
    for number, line in enumerate(stream, start=1):
        size += len(line)
        line = line.strip(" \t\r\n")
        if not line:
            continue
        read = _object(line, decode, flat)
        if isinstance(read, dict):
            lines.append(number)
            objects.append(read)
        else:
            broken.append((number, read))
        if len(lines) + len(broken) >= _ROWS_AT_ONCE or size > _CHARACTERS_AT_ONCE:
            yield lines, objects, broken
            lines, objects, broken, size = [], [], [], 0
    yield lines, objects, broken


def _object(line: str, decode: Callable[[str], Any], flat: frozenset[str]) -> dict[str, Any] | str:
    """The object of a line, or what is wrong with it."""
    try:
        read = decode(line)
    except RecursionError:
        return "the line is nested too deeply"
    except ValueError as error:
        # A decoder's message tells a place, never the text, so nobody's data is in it.
        return f"the line is no JSON ({str(error)[:80]})"
    if not isinstance(read, dict):
        return f"the line is a JSON {type(read).__name__}, not an object"
    if line.find("{", 1) > 0 or line.find("[", 1) > 0:
        nested = [name for name in read.keys() & flat if isinstance(read[name], dict | list)]
        if nested:
            return f"{min(nested)} holds an object or a list"
    if "\\u" in line:
        try:
            json.dumps(read, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return "the line has half of a surrogate pair, which is no character"
    return read


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


_KINDS = {str: "text", _Number: "number", int: "number", bool: "flag", dict: "object", list: "list"}


def _as_texts(values: list[Any], kinds: set[str]) -> Sequence[str | None]:
    """A column's values as texts; adds what sorts of JSON value they are to `kinds`."""
    types = set(map(type, values)) - {type(None)}
    kinds.update(_KINDS[kind] for kind in types)
    if types <= {str, _Number}:
        return values
    if types == {int} and None not in values:
        return list(map(str, values))
    return [_as_text(value) for value in values]


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else json.dumps(value, ensure_ascii=False)


def _insert(
    connection: duckdb.DuckDBPyConnection, lines: Sequence[int], columns: Sequence[Sequence[str | None]], width: int,
    broken: Sequence[tuple[int, str]],
) -> None:  # fmt: skip
    if lines:
        arrays = [pa.array(lines, pa.int64()), pa.nulls(len(lines), pa.string())]
        arrays += [pa.array(values, pa.large_string()) for values in columns]
        names = ["_line", "_broken", *(f"c{i}" for i in range(width))]
        connection.register("_piece", pa.table(arrays, names=names))
        connection.execute("insert into arrived by name select * from _piece")
        connection.unregister("_piece")
    if broken:
        payloads = [json.dumps({"unreadable": why}, ensure_ascii=False) for _, why in broken]
        connection.register("_piece", pa.table({"_line": [line for line, _ in broken], "_broken": payloads}))
        connection.execute("insert into arrived by name select * from _piece")
        connection.unregister("_piece")


def _count(connection: duckdb.DuckDBPyConnection) -> int:
    found = connection.execute("select count(*) from arrived").fetchone()
    return int(found[0]) if found else 0


@contextmanager
def _bytes(path: Path) -> Iterator[IO[bytes]]:
    opener: Callable[..., Any] = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rb") as stream:
        yield stream


@contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    opener: Callable[..., Any] = gzip.open if path.name.lower().endswith(".gz") else open
    # Lines end where the format says (in CSV a quoted text may hold any newline); a byte order mark is passed over.
    ends = "" if format_of(path) == "csv" else "\n"
    with opener(path, "rt", encoding="utf-8-sig", errors="strict", newline=ends) as stream:
        yield stream


def _where_undecodable(path: Path) -> str:
    """The first bytes that are not UTF-8: their place, value, line, and a guess at what the file is."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    place, line = 0, 1
    with _bytes(path) as stream:
        begin = stream.read(2)
        stream.seek(0)
        while True:
            block = stream.read(1 << 20)
            kept = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                at = place - kept + error.start
                line += error.object[: error.start].count(b"\n")
                wide = begin in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
                guess = "it begins as UTF-16 does" if wide else "perhaps Latin-1 or Windows-1252"
                return f"byte 0x{error.object[error.start]:02x} at offset {at}, line {line} ({guess})"
            if not block:
                return "the place could not be found again"
            place += len(block)
            line += block.count(b"\n")
