"""The shell of `lake sql`, typed into through a pseudo-terminal."""

import fcntl
import os
import pty
import re
import select
import stat
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lake.branches import branch
from lake.stack import trino

ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[a-zA-Z]|[=>]|\][^\x07]*\x07)")
CTRL_C, CTRL_D, TAB, ENTER = "\x03", "\x04", "\t", "\r"


class Terminal:
    """A shell at work, and what it has shown so far."""

    def __init__(self, descriptor: int, process: "subprocess.Popen[bytes]") -> None:
        self.descriptor = descriptor
        self.process = process
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def wait_for(self, pattern: str) -> str:
        """Wait until it shows this, and forget what came up to there."""
        deadline = time.monotonic() + 30
        while not (found := re.search(pattern, ESCAPES.sub("", self.shown))):
            assert time.monotonic() < deadline, self.shown
            ready, _, _ = select.select([self.descriptor], [], [], 0.2)
            if ready:
                try:
                    self.shown += os.read(self.descriptor, 65536).decode(errors="replace")
                except OSError:  # it has ended
                    time.sleep(0.1)
        self.shown = ESCAPES.sub("", self.shown)[found.end() :]
        return found[0]

    def wait_for_end(self) -> int:
        """Its exit code."""
        return self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def mine(lake_stack: Path) -> Iterator[str]:
    """A branch that has a table of its own."""
    branch.create("shell_mine")
    trino.ask("create schema if not exists shell_mine.gold")
    trino.ask("create table shell_mine.gold.shell_completed as select 1 as one_column")
    yield "shell_mine"
    branch.drop("shell_mine")


@pytest.fixture
def terminal(mine: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("lake")), "--branch", mine, "sql"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # whose Ctrl-C is a signal
    )
    os.close(theirs)
    opened = Terminal(ours, process)
    try:
        opened.wait_for("shell_mine>")
        yield opened
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_statement_over_several_lines_is_answered_when_a_semicolon_ends_it(
    terminal: Terminal,
) -> None:
    terminal.type(f"select 40 + 2{ENTER}as answer;{ENTER}")
    terminal.wait_for(r"answer\s+------\s+42\s+1 row, ")
    terminal.wait_for("shell_mine>")  # before it, the terminal would take the Ctrl-D for its own
    terminal.type(CTRL_D)
    assert terminal.wait_for_end() == 0


def test_a_mistake_is_told_and_the_shell_goes_on_until_it_is_left(terminal: Terminal) -> None:
    terminal.type(f"select nope;{ENTER}")
    terminal.wait_for("error: line 1:8: Column 'nope' cannot be resolved")
    terminal.type(f"select 'still' || ' here' as t;{ENTER}")
    terminal.wait_for("\nstill here")
    terminal.type(f"\\q{ENTER}")
    assert terminal.wait_for_end() == 0


def test_a_schema_is_used_until_another_is(terminal: Terminal) -> None:
    terminal.type(f"create schema if not exists bronze; use bronze;{ENTER}")
    terminal.wait_for("done, ")
    terminal.wait_for("done, ")
    terminal.type(f"select current_schema as here;{ENTER}")
    terminal.wait_for(r"------\s+bronze")


def test_tab_completes_the_names_of_tables_and_columns(terminal: Terminal) -> None:
    terminal.type(f"select one_c{TAB}")
    terminal.wait_for("olumn")  # only what is new is drawn
    terminal.type(f" + 41 as answer from shell_comp{TAB}")
    terminal.wait_for("leted")
    terminal.type(f";{ENTER}")
    terminal.wait_for(r"------\s+42\s")


def test_an_interrupt_cancels_what_runs_and_the_shell_goes_on(terminal: Terminal) -> None:
    terminal.type(
        "select count(*) as shell_interrupted from unnest(sequence(1, 10000)),"
        f" unnest(sequence(1, 10000)), unnest(sequence(1, 10000));{ENTER}"
    )
    query = "select state, error_code from system.runtime.queries where query like "
    marked = f"{query} 'select count(*) as shell_interrupted%'"
    deadline = time.monotonic() + 30
    while trino.ask(marked) != [["RUNNING", None]]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    terminal.type(CTRL_C)
    terminal.wait_for("cancelled")
    assert trino.ask(marked) == [["FAILED", "USER_CANCELED"]]
    terminal.type(f"select 1 as one;{ENTER}")
    terminal.wait_for(r"---\s+1\s")


def test_what_was_asked_is_kept_for_its_user_only(terminal: Terminal, lake_stack: Path) -> None:
    terminal.type(f"select 'remembered' as t;{ENTER}")
    terminal.wait_for("1 row, ")
    kept = lake_stack / "sql_history"
    assert "select 'remembered' as t;" in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_a_row_that_is_too_wide_for_the_terminal_is_shown_a_value_a_line(
    terminal: Terminal,
) -> None:
    terminal.type(f"select rpad('a', 70, 'a') as left_one, rpad('b', 70, 'b') as b;{ENTER}")
    terminal.wait_for(r"-- row 1\s+left_one  a{70}\s+b         b{70}")
