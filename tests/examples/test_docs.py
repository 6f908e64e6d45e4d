# SPDX-License-Identifier: Apache-2.0
"""The pages name files, functions, keys and families that exist, and no others."""

import ast
import dataclasses
import re
import types
import typing
from functools import cache
from pathlib import Path

import pytest
import yaml

from prosparse.model.families import FAMILIES, Family
from prosparse.records.codec import encode
from prosparse.training.recipe import Recipe

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
NAME = re.compile(r"`([A-Za-z_][\w.]*)`")
OWN_PATH = re.compile(r"`((?:src|tests|docs|recipes|benchmarks|examples|\.ci)/[\w./-]*)`")


def prose(page: Path) -> str:
    """Return the text of a page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def names_in(path: Path) -> set[str]:
    """Return what a Python file defines at its top and in its classes: `f`, `C`, `C.f`."""

    def defined(body: list[ast.stmt], prefix: str = "") -> typing.Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield prefix + node.name
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (prefix + t.id for t in targets if isinstance(t, ast.Name))
            if isinstance(node, ast.ClassDef):
                yield from defined(node.body, f"{node.name}.")

    return set(defined(ast.parse(path.read_text(encoding="utf-8")).body))


def links(page: Path) -> list[tuple[str, str]]:
    return [(text, to) for text, to in LINK.findall(prose(page)) if "://" not in to]


def rows(page: Path) -> list[list[str]]:
    """Return the cells of every table row of a page."""
    lines = [line for line in prose(page).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in lines]


def test_there_are_pages_with_links():
    assert {page.name for page in PAGES} >= {"CHANGELOG.md", "CONTRIBUTING.md", "paper_map.md"}
    assert sum(len(links(page)) for page in PAGES) > 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_resolve(page):
    broken = []
    for _, to in links(page):
        file, _, anchor = to.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(to)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_name_linked_to_a_python_file_is_defined_there(page):
    undefined = [
        f"{name} in {to}"
        for text, to in links(page)
        if to.endswith(".py")
        for name in NAME.findall(text)
        if name not in names_in((page.parent / to).resolve())
    ]
    assert undefined == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_code_font_exist(page):
    assert [path for path in OWN_PATH.findall(prose(page)) if not (ROOT / path).exists()] == []


def test_the_map_links_every_test_it_names():
    text = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
    linked = {name for label, _ in LINK.findall(text) for name in NAME.findall(label)}
    assert {name for name in NAME.findall(text) if name.startswith("test_")} <= linked


def keys_of(cls: type, path: str = "") -> dict[str, dataclasses.Field]:
    """Return every key of a recipe by its path, `<name>` and `[]` standing for any."""
    found = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, place = hints[field.name], path + field.name
        if isinstance(hint, types.UnionType):
            hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        if typing.get_origin(hint) is dict:
            hint, place = typing.get_args(hint)[1], f"{place}.<name>"
        elif typing.get_origin(hint) is tuple and dataclasses.is_dataclass(hint.__args__[0]):
            hint, place = hint.__args__[0], f"{place}[]"
        found |= keys_of(hint, f"{place}.") if dataclasses.is_dataclass(hint) else {place: field}
    return found


def test_every_key_of_a_recipe_has_its_row_with_its_default():
    keys = keys_of(Recipe)
    assert {"model", "data.components.<name>.weight", "regularization.stages[].until"} <= set(keys)
    defaults = {
        key: "required" if field.default is dataclasses.MISSING else encode(field.default)
        for key, field in keys.items()
    }
    table = [row for row in rows(ROOT / "docs" / "recipes.md") if len(row) == 5]
    written = {
        row[0].strip("`"): row[2] if row[2] == "required" else yaml.safe_load(row[2])
        for row in table
        if row[0].startswith("`")
    }
    assert written == defaults


def form(family: Family) -> str:
    if family.fused:
        return "gated, fused"
    return "plain" if family.gate is None else "gated"


def test_every_family_stands_in_its_row():
    expected: dict[tuple[str, str], list[str]] = {}
    for name, family in sorted(FAMILIES.items()):
        key = "none" if family.config_key is None else f"`{family.config_key}`"
        expected.setdefault((form(family), key), []).append(name)
    table = [row for row in rows(ROOT / "docs" / "checkpoints.md") if len(row) == 3]
    written = {
        (row[0], row[1]): re.findall(r"`(\w+)`", row[2])
        for row in table
        if row[0] in ("plain", "gated", "gated, fused")
    }
    assert written == expected
