"""What the documents name is there: files, functions, tests, links, the options of each verb."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from mgmt import cli
from tests.conftest import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PRODUCT = ("pox.py", "pox_ext", "mgmt", "routerd", "lab", "xen", "bench", "runtime")
FOLDERS = (*PRODUCT, "conf", "docs", "scripts", "tests")
MADE = ("bench/out/", "docs/figures/")
"""What commands write: it may not be there."""
OTHERS = {"pox.md"}
"""Documents whose dotted names are POX's."""
FILES = {"json", "md", "service", "initrd"}
"""What a dotted name that is a file's ends with."""

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def quoted(text: str) -> list[str]:
    """What stands between backquotes, outside of examples."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"(?m)^    .*$", "", text))


@cache
def paths() -> tuple[str, ...]:
    """Files and folders of the repository, as "/folder/file"."""
    named = [path for name in FOLDERS for path in (ROOT / name).rglob("*")]
    top = [path for path in ROOT.iterdir() if path.name in FOLDERS or path.is_file()]
    return tuple(f"/{path.relative_to(ROOT)}" for path in [*top, *named])


def there(name: str) -> bool:
    """Whether a path's end, such as `tables/links.py`, is one of the repository's."""
    return any(path.endswith(f"/{name.rstrip('/')}") for path in paths())


def is_path(word: str) -> bool:
    """Whether a word can only be a file or folder of the repository."""
    if not re.fullmatch(r"[\w.-]+(/[\w.{},-]+)*/?", word) or word.startswith(MADE):
        return False
    return word.endswith((".py", ".toml")) or ("/" in word and word.split("/")[0] in FOLDERS)


@each_document
def test_files_that_are_named_exist(document: Path) -> None:
    words = [word for word in quoted(document.read_text()) if is_path(word)]
    assert [word for word in words if not there(word)] == []


@each_document
def test_tests_that_are_named_exist(document: Path) -> None:
    found = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert set(re.findall(r"\btest_\w+", document.read_text())) <= found


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    heads = re.findall(r"(?m)^#+ (.+)$", document.read_text())
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = document.parent / name if name else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


# --- the code's names ----------------------------------------------------------------------------


def definitions(tree: ast.AST) -> Iterator[str]:
    """What a module defines: functions, classes, methods (as "Class.method", too), what is set."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name, body=body):
                yield name
                yield from (
                    f"{name}.{one.name}" for one in body if isinstance(one, ast.FunctionDef)
                )
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


@cache
def defined(file: str) -> frozenset[str]:
    """What a file defines."""
    return frozenset(definitions(ast.parse((ROOT / file.lstrip("/")).read_text())))


@cache
def modules() -> tuple[str, ...]:
    """The product's modules, as "/folder/module.py", without the stand-in for POX, whose names are
    not ours."""
    left_out = ("/tests/", "/runtime/")
    return tuple(p for p in paths() if p.endswith(".py") and not p.startswith(left_out))


def walks() -> str:
    """The walks through the code of docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    return text.partition("## Four walks through the code")[2].partition("\n## ")[0]


def steps() -> Iterator[tuple[str, str]]:
    """The files of the walks, each with a name that stands in parentheses behind it.

    A file without a folder is in one that the same step has named before; these are joined by "|".
    """
    for step in re.split(r"(?m)^\d\. ", walks()):
        folders: list[str] = []
        for file, names in re.findall(r"`([\w/]+\.py)`(?: \(((?:`[\w.]+`(?:, )?)+)\))?", step):
            folder, slash, _ = file.rpartition("/")
            folders += [folder] if slash else []
            places = [file] if slash else [f"{folder}/{file}" for folder in folders]
            yield from (("|".join(places), name) for name in quoted(names))


@pytest.mark.parametrize(("places", "name"), list(steps()))
def test_a_step_is_where_the_walk_says(places: str, name: str) -> None:
    files = [
        path for path in modules() for place in places.split("|") if path.endswith(f"/{place}")
    ]
    assert any(name in defined(path) for path in files)


def test_the_walks_have_steps() -> None:
    found = list(steps())
    assert len(found) > 15
    assert ("routerd/next_hops.py", "target") in found


def test_the_walks_name_no_code_that_is_not_there() -> None:
    names = [word for word in quoted(walks()) if re.fullmatch(r"[A-Za-z_]+", word)]
    known = set().union(*map(defined, modules()))
    assert [name for name in names if name not in known] == []


def dotted(text: str) -> list[tuple[str, str]]:
    """Names as `module.name` or `Class.member`, taken apart."""
    found = [re.fullmatch(r"(?:\w+\.)*(\w+)\.(\w+)(?:\(\))?", word) for word in quoted(text)]
    return [(m[1], m[2]) for m in found if m and m[2] not in FILES and not is_path(m[0])]


@each_document
def test_dotted_names_are_defined(document: Path) -> None:
    """Of those whose module or class is one of ours."""
    if document.name in OTHERS:
        return
    for first, second in dotted(document.read_text()):
        if first[0].isupper():
            owners = [path for path in modules() if first in defined(path)]
            assert not owners or any(second in defined(path) for path in owners), first
            continue
        own = [path for path in modules() if path.endswith(f"/{first}.py")]
        packages = [path for path in modules() if path.endswith(f"/{first}/__init__.py")]
        inside = [there(f"{first}/{second}"), there(f"{first}/{second}.py")]
        named = [second in defined(path) for path in own]
        assert any(inside + named) or not (own or packages), f"{first}.{second}"


# --- the command ---------------------------------------------------------------------------------


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each verb, and of each change of a rule as "rule add"."""
    found: dict[str, argparse.ArgumentParser] = {}

    def take(parser: argparse.ArgumentParser, prefix: str) -> None:
        inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not inner:
            found[prefix.strip()] = parser
        for action in inner:
            for name, below in action.choices.items():
                take(below, f"{prefix} {name}")

    take(cli.build_parser(), "")
    return found


PARSERS = parsers()
OF_LAB = [verb for verb in PARSERS if verb.startswith("lab ")]
VERBS = [verb for verb in PARSERS if verb not in OF_LAB]


def headed() -> dict[str, set[str]]:
    """The options that docs/cli.md names for each verb, in the heading that shows its use."""
    options: dict[str, set[str]] = {}
    kinds = "|".join({verb.split()[0] for verb in VERBS if " " in verb})
    text = (ROOT / "docs" / "cli.md").read_text()
    for line in re.findall(r"(?m)^### xenflow (.+)$", text):
        change = re.match(rf"({kinds}) ([\w|]+)", line)
        named = change[2].split("|") if change else []
        verbs = [f"{change[1]} {name}" for name in named] if change else [line.split()[0]]
        for verb in verbs:
            options.setdefault(verb, set()).update(re.findall(r"(?<![\w-])--?[a-z-]+", line))
    return options


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_options_are_those_of_the_manual(verb: str) -> None:
    common = {"-h", "--network", "--lab", "--timeout", "-v"}
    for action in PARSERS[verb]._actions:
        names = set(action.option_strings)
        if names and not names & common:
            assert names & headed()[verb], f"{verb}: {' '.join(names)}"
    known = {name for action in PARSERS[verb]._actions for name in action.option_strings}
    assert headed()[verb] <= known


def test_the_manual_has_no_other_verb() -> None:
    assert headed().keys() == set(VERBS)


@pytest.mark.parametrize("verb", OF_LAB)
def test_the_labs_page_names_its_verbs_and_their_options(verb: str) -> None:
    text = (ROOT / "docs" / "lab.md").read_text()
    assert f"\n    xenflow {verb} " in text
    for action in PARSERS[verb]._actions:
        names = set(action.option_strings)
        if names and "-h" not in names:
            assert any(re.search(rf"(?<![\w-]){name}\b", text) for name in names), names
