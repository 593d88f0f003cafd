"""When a run ends before its last epoch: the validation score has not become better for some epochs."""

import pathlib

from jaxbrats.train.checkpoints import SCORE
from jaxbrats.train.logs import read_metrics
from jaxbrats.train.plan import Plan


class EarlyStopping:
    """Whether to end. It follows from the logged scores alone, so a run that goes on decides as if uninterrupted, and
    one that ended goes on when it is given more patience.

    Args:
        patience: Epochs without a better score after which to end; 0 for never.
        plan: Steps and epochs.
        workdir: The run's folder, whose log has the scores so far.
        start: Step the run goes on from; later scores do not count.
    """

    def __init__(self, patience: int, plan: Plan, workdir: pathlib.Path, start: int) -> None:
        self._patience, self._plan = patience, plan
        self._scores = {
            record["step"]: record[SCORE]
            for record in read_metrics(workdir)
            if record["split"] == "val" and record["step"] <= start and isinstance(record.get(SCORE), float)
        }

    def add(self, step: int, score: float) -> dict[str, int]:
        """Takes the score after a step that ends an epoch.

        Returns:
            What the log is to tell besides the score; nothing of a run that never ends early.
        """
        self._scores[step] = score
        return {"epochs_since_best": self.epochs_since_best} if self._patience else {}

    @property
    def epochs_since_best(self) -> int:
        """Epochs since the best score, of equals the first."""
        if not self._scores:
            return 0
        last, best = max(self._scores), max(sorted(self._scores), key=self._scores.__getitem__)
        return self._plan.epochs_completed(last) - self._plan.epochs_completed(best)

    @property
    def due(self) -> bool:
        """Whether training is to end."""
        return 0 < self._patience <= self.epochs_since_best
