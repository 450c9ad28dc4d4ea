"""The reference pages and JSON Schemas, made of the command line, the recipe's dataclasses and those of the results.

    python docs/generate.py [--check]

Everything in `reference/` and `schema/` is written anew; with --check nothing is, and what would change is named, with
exit code 1.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import io
import json
import sys
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Union

import typer.main

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.bundle.release import Release
from edgecnn.cli.app import application
from edgecnn.recipe.schema import Recipe
from edgecnn.results.accuracy import AccuracyFile
from edgecnn.results.accuracy_baseline import AccuracyBaselines
from edgecnn.results.baseline import Baseline
from edgecnn.results.comparison import Comparison
from edgecnn.results.crash import CrashFile
from edgecnn.results.drift import Drift
from edgecnn.results.end_to_end import EndToEnd
from edgecnn.results.explanation import Explanation
from edgecnn.results.features import FeaturesAgreement
from edgecnn.results.history import History
from edgecnn.results.latency import LatencyFile
from edgecnn.results.monitor import Monitored
from edgecnn.results.neighbours import Neighbours
from edgecnn.results.release import Installed
from edgecnn.results.report import RunReport
from edgecnn.results.search import Search
from edgecnn.results.transfer import TransferTable
from edgecnn.results.verdict import Verdict
from edgecnn.results.verification import SamePair

DOCS = Path(__file__).resolve().parent
DIALECT = "https://json-schema.org/draft/2020-12/schema"
MARK = "<!-- Made by `make docs`: change the code that it is made of. -->\n"
RUN = "<!-- not run: a test runs the examples of every command's help, but those that say what they need -->"

Schema = dict[str, Any]


class File(NamedTuple):
    """One kind of JSON: the record that it is, where it stands, and whether its maker stands under `provenance`."""

    kind: Any
    where: str
    provenance: bool = True


FILES = {
    "sidecar": File(Sidecar, "`X.json` beside an artifact `X`; `provenance` in an artifact that is JSON itself", False),
    "accuracy": File(AccuracyFile, "`TARGET/ENGINE.accuracy.json` of a run folder; `edgecnn validate -o`"),
    "latency": File(LatencyFile, "`TARGET/latency.json` of a run folder; `edgecnn bench -o`"),
    "verdict": File(
        Verdict,
        "`TARGET/verdict.json` of a run folder; in each row of `edgecnn gate --json`, beside `recipe`, `target` and "
        "`device_key`",
    ),
    "report": File(RunReport, "`TARGET/report.json` of a run folder; `edgecnn report --format json`"),
    "crash": File(CrashFile, "`TARGET/ENGINE.crash.json` of a run folder"),
    "baseline": File(Baseline, "`baselines/RECIPE/DEVICE-KEY.json` beside a recipe"),
    "accuracy-baseline": File(AccuracyBaselines, "`baselines/RECIPE/BACKEND-PRECISION.json` beside a recipe"),
    "end-to-end": File(EndToEnd, "`edgecnn bench --end-to-end --json`", False),
    "search": File(Search, "`X.search.json` beside the graph that was found; `edgecnn search --json`"),
    "explanation": File(Explanation, "`edgecnn explain --json`", False),
    "comparison": File(Comparison, "`edgecnn compare --json`", False),
    "features-agreement": File(FeaturesAgreement, "`edgecnn validate -o` of a features graph"),
    "transfer-table": File(TransferTable, "`transfer-table.json` of a table's folder; `edgecnn transfer-table --json`"),
    "same": File(SamePair, "`edgecnn same --json`", False),
    "neighbours": File(Neighbours, "`edgecnn neighbours --json`", False),
    "drift": File(Drift, "`edgecnn drift --json`", False),
    "monitored": File(Monitored, "`edgecnn monitor --json`", False),
    "history": File(History, "`edgecnn history --json`", False),
    "release": File(Release, "`release.json`, the first member of a release (`edgecnn release`)", False),
    "installed": File(Installed, "`installed.json` of an installed release (`edgecnn install`)", False),
}


def sentence(kind: Any) -> str:
    """A dataclass's docstring in one line."""
    return " ".join((kind.__doc__ or "").split())


def comments(kind: Any) -> dict[str, str]:
    """What stands as a comment behind each field of a dataclass."""
    source = inspect.getsource(kind)
    said = {
        t.start[0]: t.string.lstrip("# ")
        for t in tokenize.generate_tokens(io.StringIO(source).readline)
        if t.type == tokenize.COMMENT
    }
    body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    fields = [node for node in body if isinstance(node, ast.AnnAssign)]
    return {node.target.id: said[node.end_lineno] for node in fields if node.end_lineno in said}  # type: ignore[attr-defined]


LIMITS = {
    "ge": "minimum",
    "le": "maximum",
    "min_length": "minItems",
    "max_length": "maxItems",
}  # all on numbers or lists


def limits(metadata: Any) -> Schema:
    """What a marker of `annotated_types` says of a value."""
    return {key: v for name, key in LIMITS.items() if (v := getattr(metadata, name, None)) is not None}


SIMPLE: Mapping[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Path: {"type": "string"},
    Any: {},
}


def schema_of(hint: Any, parts: dict[str, Schema]) -> Schema:
    """The JSON Schema of a type; records that it names join `parts`."""
    if hint in SIMPLE:
        return dict(SIMPLE[hint])
    if dataclasses.is_dataclass(hint):
        if hint.__name__ not in parts:
            parts[hint.__name__] = {}  # a record may hold others of its kind
            parts[hint.__name__] = schema_of_record(hint, parts)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        found = schema_of(inner[0], parts)
        for metadata in inner[1:]:
            found |= limits(metadata)
        return found
    if origin is typing.Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(one, parts) for one in inner]}
    if origin is tuple and inner[-1] is not Ellipsis:
        return {"type": "array", "prefixItems": [schema_of(one, parts) for one in inner]} | dict.fromkeys(
            ("minItems", "maxItems"), len(inner)
        )
    if origin in (tuple, list):
        return {"type": "array", "items": schema_of(inner[0], parts)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": schema_of(inner[1], parts)}
    raise TypeError(f"{hint}: no JSON Schema is known for it")


def record_of(hint: Any) -> tuple[Any, bool]:
    """The record in `Record` or `Record | None`, and whether it may be None."""
    inner = typing.get_args(hint) or (hint,)
    return next(h for h in inner if dataclasses.is_dataclass(h)), type(None) in inner


def schema_of_record(kind: Any, parts: dict[str, Schema]) -> Schema:
    """The object that a dataclass is in JSON, as `records.to_plain` writes it: flat parts in place, derived values
    beside them, nothing left out but what is None or empty where the record is sparse."""
    hints, said = typing.get_type_hints(kind, include_extras=True), comments(kind)
    properties: Schema = {}
    needed: list[str] = []
    for name in getattr(kind, "DERIVED", ()):
        properties[name] = schema_of(typing.get_type_hints(getattr(kind, name).fget)["return"], parts)
        needed.append(name)
    for field in dataclasses.fields(kind):
        if field.metadata.get("hidden"):
            continue
        if field.metadata.get("flat"):
            part, optional = record_of(hints[field.name])
            flat = schema_of_record(part, parts)
            properties = flat["properties"] | properties
            needed += [] if optional else [key for key in flat["required"] if key not in needed]
            continue
        described = {"description": said[field.name]} if field.name in said else {}
        properties[field.name] = schema_of(hints[field.name], parts) | described
        if not getattr(kind, "SPARSE", False):
            needed.append(field.name)
    return {
        "type": "object",
        "description": sentence(kind),
        "properties": properties,
        "required": needed,
        "additionalProperties": False,
    }


def whole_schema(kind: Any, title: str, *, provenance: bool = False) -> Schema:
    """A file's JSON Schema."""
    parts: dict[str, Schema] = {}
    top = schema_of_record(kind, parts)
    if provenance:
        top["properties"]["provenance"] = schema_of(Sidecar, parts)
    return {"$schema": DIALECT, "title": title, **top, "$defs": dict(sorted(parts.items()))}


def recipe_schema() -> Schema:
    """A recipe's, which may leave out what it likes."""
    whole = whole_schema(Recipe, "edgecnn: recipe")
    for table_ in (whole, *whole["$defs"].values()):
        del table_["required"]
    return whole


def schemas() -> dict[str, Schema]:
    """Every file of schema/."""
    found = {
        f"{name}.schema.json": whole_schema(f.kind, f"edgecnn: {name}", provenance=f.provenance)
        for name, f in FILES.items()
    }
    return found | {"recipe.schema.json": recipe_schema()}


def words(schema: Schema) -> str:
    """A JSON Schema of a value, for a reader."""
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(words(one) for one in schema["anyOf"])
    if "prefixItems" in schema:
        return f"[{', '.join(words(one) for one in schema['prefixItems'])}]"
    if schema.get("type") == "array":
        return f"list of {words(schema['items'])}"
    if isinstance(inner := schema.get("additionalProperties"), dict):
        return f"table of {words(inner)}"
    said = {"integer": "whole number", "boolean": "true or false"}.get(
        schema.get("type", ""), schema.get("type", "anything")
    )
    ends = [f"{sign} {schema[key]:g}" for sign, key in ((">=", "minimum"), ("<=", "maximum")) if key in schema]
    return f"{said} {', '.join(ends)}".strip()


def cell(text: str) -> str:
    """Text in a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [heads, tuple("---" for _ in heads), *[tuple(map(cell, row)) for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def recipe_page() -> str:
    """Every key of a recipe, with its default."""
    text = f"# What a recipe can say\n\n{MARK}\n"
    text += (
        "A recipe is a TOML file; every key may be left out. `edgecnn recipe show NAME` prints one with all of them;\n"
    )
    text += "`--set TABLE.KEY=VALUE` changes one for a run. Which to use: [recipes](../recipes.md). For editors:\n"
    text += "[recipe.schema.json](../schema/recipe.schema.json).\n"
    schema, defaults = recipe_schema(), Recipe()
    tables = [f.name for f in dataclasses.fields(Recipe) if dataclasses.is_dataclass(getattr(defaults, f.name))]
    plain = {key: one for key, one in schema["properties"].items() if key not in tables}
    text += "\n## Above the tables\n\n" + rows_of(plain, defaults)
    for name in tables:
        value = getattr(defaults, name)
        text += tables_of(f"[{name}]", type(value), value, schema["$defs"])
    return text


def tables_of(title: str, kind: Any, value: Any, parts: Mapping[str, Schema]) -> str:
    """A recipe's table and those inside it."""
    properties = parts[kind.__name__]["properties"]
    inner = {key: v for key in properties if dataclasses.is_dataclass(v := getattr(value, key))}
    own = {key: schema for key, schema in properties.items() if key not in inner}
    text = f"\n## `{title}`\n\n{sentence(kind)}\n\n" + rows_of(own, value)
    return text + "".join(tables_of(f"{title[:-1]}.{key}]", type(v), v, parts) for key, v in inner.items())


def rows_of(properties: Mapping[str, Schema], defaults: Any) -> str:
    """One row for each key of a recipe's table."""
    rows = []
    for key, schema in properties.items():
        value = getattr(defaults, key)
        default = "" if value is None else f"`{json.dumps(value)}`"
        allowed = words({k: v for k, v in schema.items() if k != "description"}).removesuffix(" or null")
        rows.append((f"`{key}`", allowed, default, schema.get("description", "")))
    return table(("key", "is", "left out", "says"), rows)


def files_page() -> str:
    """Every JSON file that edgecnn writes, key by key."""
    text = f"# Sidecars and results\n\n{MARK}\n"
    text += "Units stand in the names: `_pct` per cent, `_pp` percentage points, `_ms` milliseconds, `_mb` 1e6 bytes,\n"
    text += "`_ci` a 95 % interval [lower, upper]. A file of a run says who made it under `provenance`: a\n"
    text += "[Sidecar](#sidecar).\n\n"
    rows = [
        (
            f"[{name}.schema.json](../schema/{name}.schema.json)",
            f.where,
            f"[{f.kind.__name__}](#{f.kind.__name__.lower()})",
        )
        for name, f in FILES.items()
    ]
    text += table(("schema", "file or command", "holds"), rows)
    records: dict[str, Schema] = {}
    for file in FILES.values():
        records[file.kind.__name__] = schema_of_record(file.kind, records)
    for name in sorted(records):
        record = records[name]
        shown = [
            (
                f"`{key}`",
                words({k: v for k, v in one.items() if k != "description"}),
                "yes" if key in record["required"] else "where known",
            )
            for key, one in record["properties"].items()
        ]
        text += f"\n## {name}\n\n{record['description']}\n\n" + table(("key", "is", "there"), shown)
    return text


def commands(command: Any, path: str = "edgecnn") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its words, in the order of the help."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name in command.list_commands(None):
        yield from commands(inner[name], f"{path} {name}")


def words_allowed(hint: Any) -> list[str]:
    """The words that a parameter of this type takes, where it takes some words alone."""
    if typing.get_origin(hint) is typing.Literal:
        return [str(word) for word in typing.get_args(hint)]
    return [word for inner in typing.get_args(hint) for word in words_allowed(inner)]


def parameter_row(parameter: Any, hint: Any) -> tuple[str, ...]:
    """How an argument or option is written, what it is where it is left out, and what it says."""
    told = hint if typing.get_origin(hint) is typing.Annotated else typing.get_args(hint)[0]  # Python 3.10: or None
    said, _, named = (told.__metadata__[0].help or "").partition("[default: ")
    given = parameter.default if isinstance(parameter.default, (list, tuple)) else [parameter.default]
    default = named.rstrip("]") or " ".join(f"`{one}`" for one in given if one not in (None, False, "", ()))
    if parameter.param_type_name == "argument":
        name = f"`{parameter.name.upper().replace('_', '-')}`"
    else:
        value = "|".join(words_allowed(hint)) or parameter.name.strip("_").upper().replace("_", "-")
        name = ", ".join(f"`{word}`" for word in (*parameter.opts, *parameter.secondary_opts))
        name += "" if getattr(parameter, "is_flag", False) else f" {value}"
    return name, "required" if parameter.required else default, said


def commands_page() -> str:
    """Every command with its arguments, options and examples."""
    found = list(commands(typer.main.get_command(application())))
    text = f"# Commands\n\n{MARK}\n"
    text += "In the order of the flow, then what only looks. Exit codes: [README](../../README.md#exit-codes).\n\n"
    text += " · ".join(f"[{name.removeprefix('edgecnn ')}](#{name.replace(' ', '-')})" for name, _ in found) + "\n"
    for name, command in found:
        said, _, more = (command.help or "").partition("\n\n")
        text += f"\n## {name}\n\n{' '.join(said.split())}\n"
        if more:
            text += "\n" + "\n\n".join(" ".join(part.split()) for part in more.split("\n\n")) + "\n"
        hints = typing.get_type_hints(inspect.unwrap(command.callback), include_extras=True)
        shown = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
        if shown:
            text += "\n" + table(
                ("argument or option", "left out", "says"), [parameter_row(p, hints[p.name]) for p in shown]
            )
        lines = [line.strip() for line in (command.epilog or "").splitlines() if line.startswith("  ")]
        text += f"\n{RUN}\n```sh\n" + "\n".join(lines) + "\n```\n"
    return text


def made() -> dict[Path, str]:
    """Every file that this program makes."""
    pages = {"commands.md": commands_page(), "recipe.md": recipe_page(), "files.md": files_page()}
    return {DOCS / "reference" / name: text for name, text in pages.items()} | {
        DOCS / "schema" / name: json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
        for name, schema in schemas().items()
    }


def stale(texts: Mapping[Path, str]) -> list[str]:
    """Those files that are others on disk, or on disk and not made."""
    there = {path for folder in ("reference", "schema") for path in (DOCS / folder).iterdir()}
    differ = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    return sorted(str(path.relative_to(DOCS)) for path in {*differ, *(there - texts.keys())})


def main() -> None:
    """Rewrite the files, or say which would change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check, texts = parser.parse_args().check, made()
    changed = stale(texts)
    print("\n".join(changed) or "nothing changes")
    if check and changed:
        sys.exit(1)
    for name in changed:
        if (DOCS / name) in texts:
            (DOCS / name).write_text(texts[DOCS / name], encoding="utf-8")
        else:
            (DOCS / name).unlink()


if __name__ == "__main__":
    main()
