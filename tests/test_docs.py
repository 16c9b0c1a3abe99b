"""What the pages say is so: code parses, names and commands exist, the map is the tree."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

import bertcompress
from bertcompress.cli.main import app
from bertcompress.methods import METHODS
from bertcompress.support import catalogue

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND_LINE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
METHODS_PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    """The path of a page, without the folder that most are in."""
    return page.relative_to(ROOT).as_posix().removeprefix("docs/")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, without the indentation that a list gives them."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [re.sub(f"^{indent}", "", code, flags=re.M) for indent, kind, code in found
            if kind == language]  # fmt: skip


CODE = [
    pytest.param(code, id=f"{name_of(page)}-{number}")
    for page in PAGES
    for number, code in enumerate(blocks(page, "python"))
]


def test_the_pages_have_code():
    assert {param.id.partition("-")[0] for param in CODE} >= {"README.md", "loading.md"}


@pytest.mark.parametrize("code", CODE)
def test_python_parses_and_names_what_exists(code):
    tree = ast.parse(code)
    short = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "bertcompress"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in short:
            assert getattr(bertcompress, node.attr) is not None
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("bertcompress"):
            module = __import__(str(node.module), fromlist=["_"])
            assert all(hasattr(module, alias.name) for alias in node.names)


def called(text: str) -> list[list[str]]:
    """The command lines of this package in a page: in `bash` blocks and between backticks."""
    lines = [line for page in blocks_of(text, "bash") for line in page.splitlines()]
    lines += re.findall(r"`((?:accelerate launch [^`]*-m )?bertcompress [^`]+)`", text)
    words = [shlex.split(line, comments=True) for line in lines]
    return [w[w.index("bertcompress") + 1 :] for w in words if "bertcompress" in w]


def blocks_of(text: str, language: str) -> list[str]:
    return [code for _, kind, code in FENCE.findall(text) if kind == language]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_option_exists(page):
    for words in called(page.read_text(encoding="utf-8")):
        command = COMMANDS[words[0]]
        if words[0] == "store":
            command = command.commands[words[1]]
        options = {name for parameter in command.params for name in parameter.opts}
        given = {word for word in words if word.startswith("--")}
        assert given <= options, f"bertcompress {' '.join(words)}"
        if words[0] == "run" and words[1:2] not in ([], ["RECIPE"]):
            catalogue.resolve("recipes", words[1])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_list_holds_is_indented_by_four(page):
    # By less it is no part of the list on the site, whose Markdown is the older one.
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    assert not re.findall(r"^ {1,3}(?:[-*] |\d+\. |\||```).*", text, re.MULTILINE)


def test_what_else_a_shell_is_given_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^(\w+):", makefile, re.MULTILINE)
    lines = [
        line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()
    ]
    for line in lines:
        words = shlex.split(line, comments=True)  # raises where a quote is not closed
        if words[:1] == ["make"]:
            assert words[1] in targets, line
        if words[:1] == ["python"] and not words[1].startswith("runs/"):
            assert (ROOT / words[1]).is_file(), line
    assert ["make", "demo"] in [shlex.split(line, comments=True) for line in lines]


def test_the_table_of_commands_is_complete():
    section = COMMAND_LINE.partition("## Commands")[2].partition("\n## ")[0]
    assert {words[0] for words in called(section)} == set(COMMANDS)


def test_the_page_of_rooms_names_every_file():
    # What it says of each, and that it is up to date: test_generated_documents_are_up_to_date.
    page = (ROOT / "docs" / "rooms.md").read_text(encoding="utf-8")
    for path in (ROOT / "bertcompress").rglob("*.py"):
        assert f"| `{path.name}` |" in page, path
    assert "(docs/rooms.md)" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_links_lead_somewhere():
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def rows(section: str) -> list[list[str]]:
    lines = METHODS_PAGE.partition(f"## {section}")[2].partition("\n## ")[0].splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    return cells[2:]


def test_methods_that_are_called_here_are_here():
    assert [row[0].strip("`") for row in rows("Here")] == list(METHODS)
    marked = [row[4] for row in rows("The reading list")]
    keys = {status.split("`")[1] for status in marked if status.startswith("method ")}
    assert keys
    assert keys <= set(METHODS)


def test_every_system_of_the_reading_list_has_its_row():
    listed = rows("The reading list")
    assert [int(row[0]) for row in listed] == list(range(1, 42))
    for _, system, paper, family, status, speed in listed:
        assert system and paper and family and speed
        assert re.fullmatch(r"planned|reading|(method|setting) `\w+`", status), system


def test_settings_that_are_called_here_are_here():
    from bertcompress.training import TrainSettings

    marked = [row[4] for row in rows("The reading list") if row[4].startswith("setting ")]
    assert {status.split("`")[1] for status in marked} <= set(TrainSettings.model_fields)


def test_every_method_cites_the_papers_of_its_row():
    from bertcompress.methods import method_class

    for key, papers, *_ in rows("Here"):
        cited = set(re.findall(r"\d{4}\.\d{4,5}", method_class(key.strip("`")).paper))
        assert cited
        assert cited <= set(re.findall(r"\d{4}\.\d{4,5}", papers))


def test_shipped_recipes_are_in_the_readme():
    for name in catalogue.list_names("recipes"):
        assert name in README


def test_the_licence_is_the_one_that_is_named():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
