"""Ending the processes of a run together: each says now and then that it is alive, and the last word of one that fails.

A collective operation waits for ever for a process that is gone. JAX itself notices after a while, and ends the process
with a stack trace; this says what happened, in a line.
"""

import atexit
import contextlib
import os
import socket
import sys
import threading
import time
from typing import Any

from jaxbrats.system.errors import InputError
from jaxbrats.system.signals import signal_of

# Silence after which a process is given up, and how often each is heard. Beats come from a thread of their own, so the
# main thread may compile as long as it likes.
SILENCE_SECONDS = 20.0
BEAT_SECONDS = 1.0
# Long enough that every process has read why the run ends before process 0, which keeps the message, is gone.
EXIT_SECONDS = 10
_FAILED, _ALIVE, _HOST = "jaxbrats/failed/", "jaxbrats/alive/", "jaxbrats/host/"


class Heartbeat(threading.Thread):
    """The thread that does it.

    Args:
        client: JAX's distributed client: a key-value store that process 0 keeps, and barriers.
        process: Which this is.
        processes: How many there are.
    """

    def __init__(self, client: Any, process: int, processes: int) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._client = client
        self._process = process
        self._processes = processes
        self._ended = threading.Event()
        self._heard = dict.fromkeys(range(processes), ("", time.monotonic()))
        client.key_value_set(f"{_HOST}{process}", socket.gethostname())

    def run(self) -> None:
        """Beats, and ends this process when another has failed."""
        beats = 0
        while not self._ended.wait(BEAT_SECONDS):
            beats += 1
            try:
                self._client.key_value_set(f"{_ALIVE}{self._process}", str(beats), allow_overwrite=True)
                if self._process == 0:
                    self._look_for_lost()
                failure = self._read_failure()
            except RuntimeError:
                continue  # process 0 is gone: JAX ends this process
            if failure is not None and not self._ended.is_set():
                code, _, message = failure.partition(" ")
                print(f"\njaxbrats train: {message}", file=sys.stderr, flush=True)
                self._wait_for_others()
                os._exit(int(code))

    def stop(self) -> None:
        """Ends the thread; all processes must have done their work."""
        self._ended.set()
        self.join()

    def fail(self, error: BaseException) -> None:
        """Tells the others that this process ends, and why; they end too, with its exit code. Returns when they know.

        Where the error comes from JAX, it may be the echo of another process's end: then that is waited for.
        """
        if isinstance(error, RuntimeError) and type(error).__module__.startswith("jax"):
            # run() ends the process when it learns of another, and has waited for the others.
            time.sleep(SILENCE_SECONDS + EXIT_SECONDS + 5 * BEAT_SECONDS)
        self._ended.set()
        if number := signal_of(error):
            code, text = 128 + number, f"stopped by {number.name}; run the same command again to resume"
        elif isinstance(error, InputError | OSError):
            code, text = 1, str(error)
        else:
            code, text = 1, f"{type(error).__name__}: {error}"
        self._publish(code, f"{self._describe(self._process)} ended: {text}")
        self._wait_for_others()
        # JAX would wait minutes for processes that are gone, to leave in good order.
        atexit.register(_end_at_once, code)

    def _publish(self, code: int, message: str) -> None:
        with contextlib.suppress(RuntimeError):  # another was first, or process 0 is gone
            self._client.key_value_set(f"{_FAILED}message", f"{code} {message}")

    def _read_failure(self) -> str | None:
        """Exit code and message of the process that failed first."""
        # Of a whole folder, because asking for a single key that is not there is an error.
        return next((failure for _, failure in self._client.key_value_dir_get(_FAILED)), None)

    def _look_for_lost(self) -> None:
        now = time.monotonic()
        for key, beat in self._client.key_value_dir_get(_ALIVE):
            process = int(key.rpartition("/")[2])
            if self._heard[process][0] != beat:
                self._heard[process] = (beat, now)
        lost = [process for process, (_, heard) in self._heard.items() if now - heard > SILENCE_SECONDS]
        if lost:
            names = ", ".join(self._describe(process) for process in lost)
            self._publish(
                1,
                f"nothing heard from {names} for {SILENCE_SECONDS:.0f} seconds: killed, out of memory or cut off "
                "from the network. So the run ends; the same command goes on from the last checkpoint",
            )

    def _describe(self, process: int) -> str:
        try:
            host = self._client.key_value_try_get(f"{_HOST}{process}")
        except RuntimeError:
            host = "?"
        return f"process {process} of {self._processes} ({host})"

    def _wait_for_others(self) -> None:
        with contextlib.suppress(RuntimeError):  # somebody is gone, which may be why
            self._client.wait_at_barrier("jaxbrats/exit", EXIT_SECONDS * 1000)
        if self._process == 0:
            time.sleep(BEAT_SECONDS)  # the others' answers are on their way


def _end_at_once(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
