"""Work spread over processes: many tasks, few in flight, results as they come."""

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from jaxbrats.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")

# Tasks handed out for each worker: one at work, one waiting.
_AHEAD = 2


def available_cpus() -> int:
    """CPUs that this process may use, which a batch system may have made fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int, name: Callable[[Task], str] = str
) -> Iterator[tuple[Task, Result]]:
    """Applies a function to each task in worker processes.

    Args:
        function: Of a module, so that the workers can import it, or a `functools.partial` of one. What it raises ends
            the work and is raised here.
        tasks: Taken as they are needed.
        workers: Processes. With one, the work is done in this process.
        name: What to call a task in an error message.

    Yields:
        Each task with its result, in the order in which they are done.

    Raises:
        InputError: a worker died.
    """
    if workers <= 1:
        yield from ((task, function(task)) for task in tasks)
        return
    # Never fork: JAX runs threads in this process. A fork server has its imports done when a worker starts.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([getattr(function, "func", function).__module__])
    executor = concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_start_worker)
    waiting = iter(tasks)
    pending: dict[concurrent.futures.Future, Task] = {}
    try:
        while True:
            for task in waiting:
                pending[executor.submit(function, task)] = task
                if len(pending) >= _AHEAD * workers:
                    break
            if not pending:
                return
            done, _ = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                result = future.result()
                yield pending.pop(future), result
    except concurrent.futures.process.BrokenProcessPool as error:
        names = ", ".join(map(name, pending.values()))
        problem = f"a worker process died, perhaps out of memory, at one of {names}"
        raise InputError(problem, cure="Run again with fewer workers") from error
    finally:
        executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C reaches every process of the terminal: the parent alone answers it, workers finish their task.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # The workers of a killed parent would wait for ever for the next task.
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
