"""The shell of `lake sql`: statements over several lines, a history, names completed by Tab."""

import re
import shutil
import sys
import time
from functools import lru_cache
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import ThreadedCompleter, WordCompleter
from prompt_toolkit.filters import completion_is_selected
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer
from rich.console import Console
from trino.dbapi import Connection

from lake.errors import LakeError
from lake.query import Format, asked, opened, show, statements
from lake.settings import settings

LEAVING = ("\\q", "quit", "exit")
WORDS = """
    select from where group by having order limit join left right full on using with as and or not
    in is null between like case when then else end distinct union all except intersect over
    partition count sum avg min max cast show tables schemas catalogs columns describe explain
    analyze use insert into values update delete create drop table
"""


def talk(form: Format) -> None:
    """Read statements from the terminal and answer them, until \\q or Ctrl-D.

    Ctrl-C drops what is being typed, or cancels what runs. Raises LakeError where there is no such
    branch.
    """
    told = Console(stderr=True, soft_wrap=True, highlight=False)
    with opened() as connection:
        session = _session()
        told.print("a `;` ends a statement, Tab completes names, Ctrl-C cancels, \\q leaves")
        while True:
            try:
                typed = session.prompt(f"{settings().branch}> ").strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if typed.rstrip("; ") in LEAVING:
                return
            for statement in statements(typed)[0]:
                try:
                    told.print(_answered(connection, statement, form), style="dim")
                except LakeError as error:
                    told.print(f"[red]error:[/] {error}")
                    break
                except KeyboardInterrupt:
                    told.print("cancelled", style="yellow")
                    break


def _answered(connection: Connection, statement: str, form: Format) -> str:
    """Show a statement's answer; returns how much it was, and how long it took."""
    began = time.monotonic()
    with asked(connection, statement) as answer:
        count = show(answer, form, sys.stdout, shutil.get_terminal_size().columns)
    sys.stdout.flush()
    rows = f"{count:,} row{'' if count == 1 else 's'}" if answer.columns else "done"
    return f"{rows}, {time.monotonic() - began:.1f} s"


def _session() -> PromptSession[str]:
    return PromptSession(
        history=FileHistory(_history()),
        lexer=PygmentsLexer(SqlLexer),
        completer=ThreadedCompleter(
            WordCompleter(_names, ignore_case=True, pattern=re.compile(r"[\w.]+"))
        ),
        complete_while_typing=False,
        auto_suggest=AutoSuggestFromHistory(),
        multiline=True,
        prompt_continuation=lambda width, _line, _wraps: "-> ".rjust(width),
        key_bindings=_keys(),
    )


def _history() -> Path:
    path = settings().state_dir / "sql_history"
    path.touch(mode=0o600)
    return path


@lru_cache
def _names() -> list[str]:
    """What Tab completes: words of SQL, and the names of tables and columns on the branch."""
    found = set(WORDS.split())
    query = (
        "select table_schema, table_name, column_name from information_schema.columns"
        " where table_schema <> 'information_schema'"
    )
    try:
        with opened() as connection, asked(connection, query) as answer:
            for schema, table, column in answer.rows:
                found |= {f"{schema}.{table}", column, *([table] if schema == "gold" else [])}
    except LakeError:  # the statement itself will tell
        pass
    return sorted(found)


def _keys() -> KeyBindings:
    """Enter sends what a `;` ends, or a command; else it begins another line."""
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        typed = buffer.text.strip()
        complete, rest = statements(typed)
        if typed in LEAVING or not typed or (complete and not rest):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    @keys.add("enter", filter=completion_is_selected)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.complete_state = None

    return keys
