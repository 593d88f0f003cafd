import functools
import math
import operator
import os

import pytest

from jaxbrats.errors import InputError
from jaxbrats.processes import available_cpus, map_in_processes


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_has_its_result_and_is_taken_only_when_needed(workers):
    taken = []

    def tasks():
        for number in range(12):
            taken.append(number)
            yield float(number)

    results = {}
    for done, (task, result) in enumerate(map_in_processes(math.sqrt, tasks(), workers), start=1):
        results[task] = result
        # At most two a worker are in flight, and as many may be done but not yet handed over.
        assert len(taken) <= done + 4 * workers
    assert results == {float(number): math.sqrt(number) for number in range(12)}


def test_a_partial_function_and_no_task_at_all():
    add = functools.partial(operator.add, 10)
    assert dict(map_in_processes(add, range(3), workers=2)) == {0: 10, 1: 11, 2: 12}
    assert list(map_in_processes(add, [], workers=2)) == []


def test_what_the_function_raises_is_raised_here():
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        list(map_in_processes(math.sqrt, [-1.0], workers=2))


def test_a_worker_that_dies_is_said_in_a_line_with_the_task():
    with pytest.raises(InputError, match=r"a worker process died, .* at one of case 7\. Run again with fewer workers"):
        list(map_in_processes(os._exit, [7], workers=2, name=lambda task: f"case {task}"))


def test_at_least_one_cpu():
    assert available_cpus() >= 1
