"""The documentation is true: generated pages are current, links lead somewhere, commands and settings exist."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from v7_pipeline.cli import app
from v7_pipeline.settings import Settings, env_name

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
ENV_NAMES = {env_name(field) for field in Settings.model_fields}


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", generator().pages())
def test_a_generated_page_is_current(name: str) -> None:
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == generator().pages()[name](), f"docs/{name} is old; run python scripts/make_docs.py"


def test_check_names_old_and_missing_pages_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = generator()
    few = {"checks.md": lambda: "new\n", "theories/one.md": lambda: "one\n", "same.md": lambda: "same\n"}
    monkeypatch.setattr(made, "DOCS", tmp_path)
    monkeypatch.setattr(made, "pages", lambda: few)
    (tmp_path / "checks.md").write_text("old\n")
    (tmp_path / "same.md").write_text("same\n")
    assert made.main(["--check"]) == 1
    told = capsys.readouterr().err
    assert "old: docs/checks.md\nold: docs/theories/one.md\n" in told and "same" not in told
    assert (tmp_path / "checks.md").read_text() == "old\n" and not (tmp_path / "theories").exists()
    assert made.main([]) == 0 and "wrote docs/theories/one.md" in capsys.readouterr().err
    assert (tmp_path / "checks.md").read_text() == "new\n"
    assert made.main(["--check"]) == 0 and capsys.readouterr().err == ""


@pytest.mark.parametrize("argument", ["--chek", "settings.md", "-x"])
def test_what_the_generator_does_not_know_is_refused_and_writes_nothing(
    argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = generator()
    monkeypatch.setattr(made, "DOCS", tmp_path)
    with pytest.raises(SystemExit) as refused:
        made.main([argument])
    assert refused.value.code == 2 and argument in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# --- links --------------------------------------------------------------------------------


def without_code(text: str) -> str:
    return re.sub(r"`[^`]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchor(heading: str) -> str:
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, section = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.exists(), f"{page.name}: {target}"
        if section:
            headings = re.findall(r"^#+ (.+)$", goal.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert section in map(anchor, headings), f"{page.name}: {target}"


def test_every_page_can_be_reached_from_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in menu, page


# --- commands -----------------------------------------------------------------------------


def code(text: str) -> list[str]:
    """Lines of code blocks, and code spans."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return [line for block in blocks for line in block.splitlines()] + spans


def commands(text: str) -> list[list[str]]:
    """Every `v7 …` in code and in its comments, in words, without the brackets of what may be left out."""
    found = []
    for line in code(text):
        typed, *comments = re.split(r"(?:^|\s)#\s", line)
        offered = (part.removeprefix("or: ") for comment in comments for part in comment.split(" · "))
        for part in (*typed.split(" · "), *offered):
            match = re.fullmatch(r"(?:\$ )?(?:[A-Z0-9_]+=\S+ )*(?:\.venv/bin/)?v7( .*)?", part.strip())
            words = shlex.split(re.sub(r"[\[\]]", "", match[1] or "")) if match else ["…"]
            if words != ["…"]:
                found.append(words)
    return found


def problem(words: list[str]) -> str:
    """What is wrong with a command, by the command line's own declarations; empty where nothing is."""
    group: Any = typer.main.get_command(app)
    if not words or words[0].startswith("-"):
        known = {"--help", "-h"}
        return "" if set(words) <= known else f"no option {words}"
    command = group.commands.get(words[0])
    while hasattr(command, "commands") and len(words) > 1 and not words[1].startswith("-"):
        command, words = command.commands.get(words[1]), words[1:]
    if command is None:
        return f"no command {words[0]}"
    options = {name for item in command.params for name in (*item.opts, *item.secondary_opts)} | {"--help"}
    for word in words[1:]:
        for name in word.split("/") if word.startswith("--") else ():
            if name.partition("=")[0] not in options:
                return f"{words[0]} has no option {name}"
    plain = [place for place, word in enumerate(words[1:], 1) if not word.startswith("-")]
    flags = {
        n for item in command.params if getattr(item, "is_flag", False) for n in (*item.opts, *item.secondary_opts)
    }
    arguments = [
        p for p in plain if p == 1 or not words[p - 1].startswith("--") or set(words[p - 1].split("/")) & flags
    ]
    taken = [item.nargs for item in command.params if item.param_type_name == "argument"]
    most = len(words) if -1 in taken else len(taken)
    return "" if len(arguments) <= most else f"{words[0]} takes no {[words[p] for p in arguments]}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_in_the_pages_exists_with_its_options(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        assert not problem(words), f"{page.name}: v7 {shlex.join(words)}: {problem(words)}"


def test_the_reader_of_commands_sees_them_and_their_mistakes() -> None:
    text = "`v7 scan --as-of X`\n```\n.venv/bin/v7 up   # a\nx  # or: v7 why ID · v7 sats\n$ v7 run --loops 3\n```\n"
    found = commands(text)
    assert found == [["up"], ["why", "ID"], ["sats"], ["run", "--loops", "3"], ["scan", "--as-of", "X"]]
    assert [bool(problem(words)) for words in found] == [False, False, True, True, False]
    assert commands("`v7 …`, `v7`, `V7_MODE=demo v7 stats`") == [[], ["stats"]]
    assert problem(["stats", "everything"]) and not problem(["run", "--conservative/--aggressive"])
    assert sum(len(commands(page.read_text(encoding="utf-8"))) for page in PAGES) > 20


@pytest.mark.parametrize("command", sorted(typer.main.get_command(app).commands))  # type: ignore[attr-defined]
def test_every_command_is_in_the_user_guide_and_its_examples_parse(command: str) -> None:
    assert f"v7 {command}" in (ROOT / "docs" / "use.md").read_text(encoding="utf-8")
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    for words in commands(found.epilog or ""):
        assert not problem(words), words


def test_the_make_targets_that_the_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {
        target
        for page in PAGES
        for line in code(page.read_text(encoding="utf-8"))
        for target in re.findall(r"^make ([a-z-]+)", line)
    }
    assert {"run", "test"} <= named <= targets


# --- settings and the lock ----------------------------------------------------------------


def test_the_example_file_names_settings_that_exist() -> None:
    named = re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)
    assert named and set(named) <= ENV_NAMES


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_settings_that_the_pages_name_exist(page: Path) -> None:
    others = {"V7_TEST_STORES"}
    assert set(re.findall(r"\bV7_[A-Z0-9_]*[A-Z0-9]\b", page.read_text(encoding="utf-8"))) <= ENV_NAMES | others


def test_the_lock_pins_every_line_and_names_no_index() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] not in "# "]
    assert len(lines) > 50
    for line in lines:
        assert re.match(r"^[A-Za-z0-9._-]+(\[[a-z0-9,-]+\])?==[0-9][^\s;]*( ; .+)?$", line), line
    assert not re.search(r"https?://|--(extra-)?index|--find-links|file:", "\n".join(lines))


def test_no_file_names_the_machine_it_was_made_on() -> None:
    """Absolute paths of a developer's folders, and addresses of private package indexes, belong in no file."""
    bad = re.compile(r"/(?:work|home|Users)/[a-z]|/root/|" + "index" + r"[-_]url\s*=|\.jfrog\.|/simple/?\b(?=\s|$)")
    for path in tracked():
        if path.suffix in {".png", ".npz", ".parquet", ".gz"} or not path.is_file() or path == Path(__file__):
            continue
        found = bad.search(path.read_text(encoding="utf-8", errors="replace"))
        assert not found, f"{path.relative_to(ROOT)}: {found and found[0]}"


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", "mkdocs.yml", "-d", str(tmp_path)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "theories" / "index.html").is_file()
