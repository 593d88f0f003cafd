"""Work spread over processes: many tasks, few in flight, results as they come."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from jaxbrats.system.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")

# Tasks handed out for each worker: one at work and one waiting keep it busy, and memory flat.
_AHEAD = 2


def available_cpus() -> int:
    """CPUs that this process may use, which a batch system may have made fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    name: Callable[[Task], str] = str,
    hint: str = "Run again with fewer workers",
) -> Iterator[tuple[Task, Result]]:
    """Applies a function to each task in worker processes.

    Args:
        function: Of a module, so that the workers can import it, or a `functools.partial` of one. What it raises ends
            the work and is raised here, with a note that names the task.
        tasks: Taken as they are needed.
        workers: Processes. With one or none, the work is done in this process.
        name: What to call a task where the death of a worker is told.
        hint: What to do then.

    Yields:
        Each task with its result, in the order in which they are done.

    Raises:
        InputError: a worker died; every result that was there by then has been yielded.
    """
    if workers <= 1:
        for task in tasks:
            with _naming(name, task):
                result = function(task)
            yield task, result
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
                with _naming(name, pending[future]):
                    result = future.result()
                yield pending.pop(future), result
    except BrokenProcessPool as error:
        lost = []
        for future, task in pending.items():
            if isinstance(future.exception(), BrokenProcessPool):
                lost.append(name(task))
            else:
                yield task, future.result()
        # None is lost where it was an idle worker that died.
        at = f", at one of {', '.join(lost)}" if lost else ""
        raise InputError(f"a worker process died, perhaps out of memory{at}", hint=hint) from error
    finally:
        executor.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _naming(name: Callable[[Task], str], task: Task) -> Iterator[None]:
    """Adds to what the block raises at which task it was: a traceback from a worker tells everything else."""
    try:
        yield
    except Exception as error:
        error.add_note(f"at {name(task)}")
        raise


def end_with_parent() -> None:
    """Makes this worker process end when its parent does.

    A parent that is killed cannot end its workers: they would wait for ever, for a task or to hand over a result.
    """
    threading.Thread(target=_wait_for_end_of_parent, daemon=True).start()


def _wait_for_end_of_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _start_worker() -> None:
    # Ctrl-C reaches every process of the terminal: the parent alone answers it, workers finish their task.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
