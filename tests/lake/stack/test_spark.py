"""Sessions on the warm Spark, of which a process may open several."""

import os
import subprocess
import sys
from pathlib import Path

from lake.settings import environment

COLLECTED_AMID_A_STATEMENT = """
import gc
from concurrent.futures import ThreadPoolExecutor
from lake.stack.spark import session

gc.disable()
ended = session({})
ended.range(1).collect()
ended.stop()
ended.itself = ended  # only the collector could free it
del ended

add_thread = ThreadPoolExecutor._adjust_thread_count

def collect_first(pool):
    gc.collect()
    add_thread(pool)

ThreadPoolExecutor._adjust_thread_count = collect_first  # while a statement submits to the pool
other = session({})
assert other.range(3).count() == 3
other.stop()
"""


def test_a_session_that_has_ended_does_not_hold_up_the_next(lake_stack: Path) -> None:
    script = [sys.executable, "-c", COLLECTED_AMID_A_STATEMENT]
    done = subprocess.run(
        script, env=os.environ | environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
