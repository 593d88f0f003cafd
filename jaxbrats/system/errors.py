"""The one exception a user may meet: one line that says what is wrong, where, and what to do."""

import pathlib

CHECK_ACCESS = "Check that the file is there and its permissions"


class InputError(Exception):
    """Something the user gave cannot be used.

    `str(error)` is a single line, "case NAME: FILE: PROBLEM. HINT", made for the person reading it: PROBLEM says what
    was expected and what was found, HINT what to do. Commands print it and exit non-zero; it never becomes a traceback.

    Args:
        problem: What was expected and what was found, without a final full stop.
        case: Name of the case it concerns.
        file: The file it concerns.
        hint: What the user can do, a sentence without a final full stop.
    """

    def __init__(
        self,
        problem: str,
        *,
        case: str | None = None,
        file: str | pathlib.Path | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.case = case
        self.file = None if file is None else pathlib.Path(file)
        self.hint = hint

    def __str__(self) -> str:
        parts = [f"case {self.case}"] if self.case is not None else []
        if self.file is not None:
            parts.append(str(self.file))
        parts.append(self.problem)
        text = ": ".join(parts) + (f". {self.hint}" if self.hint else "")
        return printable(text)

    def __reduce__(self) -> tuple:
        # The default would lose the keywords on the way back from a worker process.
        return (_rebuild, (self.problem, self.case, self.file, self.hint))


def printable(text: str) -> str:
    """One printable line of a text such as a file's name, which may hold newlines and bytes that are not characters."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def unreadable(error: OSError, file: str | pathlib.Path, case: str | None = None) -> InputError:
    """The error to raise for a file that the system does not give."""
    return InputError(f"cannot be read ({error.strerror or error})", case=case, file=file, hint=CHECK_ACCESS)


def _rebuild(problem: str, case: str | None, file: pathlib.Path | None, hint: str | None) -> InputError:
    return InputError(problem, case=case, file=file, hint=hint)
