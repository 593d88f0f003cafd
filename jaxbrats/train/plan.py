"""Steps and epochs of a run."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Plan:
    """Steps and epochs. Batches straddle epochs, so that every case is used once an epoch and every batch is full.

    Attributes:
        num_cases: Training cases.
        batch_size: Cases in a batch.
        num_epochs: Passes over the cases.
        every_steps: Steps from one checkpoint to the next besides those of validations; 0 for none.
        validate_every: Epochs from one validation to the next; the last has one too.
    """

    num_cases: int
    batch_size: int
    num_epochs: int
    every_steps: int = 0
    validate_every: int = 1

    def end_of_epoch(self, epoch: int) -> int:
        """The step that completes this many epochs."""
        return math.ceil(epoch * self.num_cases / self.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.end_of_epoch(self.num_epochs)

    def epochs_completed(self, step: int) -> int:
        """Whole epochs done after a step."""
        return step * self.batch_size // self.num_cases

    def validates(self, step: int) -> bool:
        """Whether a step is the first at which so many epochs more are complete, or the last."""
        before, now = (self.epochs_completed(done) for done in (step - 1, step))
        return now // self.validate_every > before // self.validate_every or now >= self.num_epochs > before

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after a step."""
        return self.validates(step) or bool(self.every_steps and step % self.every_steps == 0)
