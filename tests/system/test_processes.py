import functools
import math
import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import time

import pytest

from jaxbrats.system.errors import InputError
from jaxbrats.system.processes import available_cpus, map_in_processes


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_has_its_result_and_is_taken_only_when_needed(workers):
    taken = []

    def tasks():
        for number in range(50):
            taken.append(number)
            yield float(number)

    results = {}
    for done, (task, result) in enumerate(map_in_processes(math.sqrt, tasks(), workers), start=1):
        results[task] = result
        # At most two a worker are in flight or done but not yet handed over.
        assert len(taken) - done < 2 * workers
    assert results == {float(number): math.sqrt(number) for number in range(50)}


def test_a_partial_function_and_no_task_at_all():
    add = functools.partial(operator.add, 10)
    assert dict(map_in_processes(add, range(3), workers=2)) == {0: 10, 1: 11, 2: 12}
    assert list(map_in_processes(add, [], workers=2)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_function_raises_is_raised_here_with_the_task(workers):
    with pytest.raises(ValueError, match=r"math domain error|nonnegative") as raised:
        list(map_in_processes(math.sqrt, [-1.0], workers, name=lambda task: f"case {task}"))
    assert raised.value.__notes__ == ["at case -1.0"]


def test_a_worker_that_dies_is_said_in_a_line_with_the_task():
    with pytest.raises(InputError, match=r"a worker process died, .* at one of case 7\. Run again with fewer workers"):
        list(map_in_processes(os._exit, [7], workers=2, name=lambda task: f"case {task}"))


def test_what_was_done_when_a_worker_died_is_not_lost(tmp_path):
    done = str(tmp_path / "done")
    tasks = {
        "'first'": "first",
        "'second'": "second",
        f"open({done!r}, 'w').close()": "third",
        f"import os, time\nwhile not os.path.exists({done!r}): time.sleep(0.1)\ntime.sleep(0.3)\nos._exit(9)": "deadly",
        "'last'": "never handed out",
    }
    results = map_in_processes(exec, tasks, 2, name=tasks.get, hint="Take a rest")
    found = [tasks[next(results)[0]]]
    while multiprocessing.active_children():
        time.sleep(0.01)
    found += [tasks[next(results)[0]] for _ in range(2)]
    assert sorted(found) == ["first", "second", "third"]
    with pytest.raises(InputError, match=r"at one of deadly\. Take a rest$"):
        next(results)


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "from jaxbrats.system.processes import map_in_processes\n"
        "if __name__ == '__main__':\n"
        "    work = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'\n"
        "    list(map_in_processes(exec, [work, work], 2))\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
        try:
            parent.communicate(timeout=10)  # ends when no process has the pipe open any more
        except subprocess.TimeoutExpired:
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
            pytest.fail("the workers outlived their parent")


def test_at_least_one_cpu():
    assert available_cpus() >= 1
