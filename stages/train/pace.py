"""Pace: how long a training will take, estimated before its first step and again once some steps were measured."""

from schemas.tables import CHECKPOINTS, TRAINING
from stages.pipeline.contract import Context, Progress
from stages.pipeline.durations import duration

SHORTEST = 10.0
"""Estimates below this are not shown, seconds."""

GUESSED_UTILISATION = 0.2
"""Share of a device's peak rate of matrix products that a training is assumed to reach where the store has no earlier
training to go by. It is a guess, used until steps are measured."""

MEASURED_STEPS = 3
"""Steps that are measured, after a first one in which everything is loaded."""


class TrainingPace:
    """Estimates how long a training takes, and shows it.

    Args:
        steps: steps that are left, at most.
        validations: validations that are left, at most.
    """

    def __init__(self, progress: Progress, steps: int, validations: int) -> None:
        self._progress, self._steps, self._validations = progress, steps, validations
        self._validation_seconds = 0.0
        self._measured, self._seconds, self._is_warm = 0, 0.0, False

    def note_validation(self, seconds: float) -> None:
        """Record how long a validation took."""
        self._validation_seconds = seconds

    def guess(self, flops: float, rate: float, utilisation: float | None) -> None:
        """Show how long the training takes, estimated from the device's rate of matrix products.

        Args:
            flops: floating-point operations of a step.
            rate: peak rate of the device's matrix products, FLOP a second.
            utilisation: share of this rate that the store's newest training reached; None where that is unknown.
        """
        share = utilisation or GUESSED_UTILISATION
        why = "as the last training did" if utilisation else "a guess"
        self._show(flops / (share * rate), f"at {share:.0%} of this machine's {_gigaflops(rate)} GFLOP/s, {why}")

    def note(self, steps: int, seconds: float) -> None:
        """Record that some steps took `seconds` together; once enough are measured, show how long the rest takes."""
        self._steps -= steps
        if not self._is_warm:
            self._is_warm = True
        elif self._measured < MEASURED_STEPS:
            self._measured, self._seconds = self._measured + steps, self._seconds + seconds
            if self._measured >= MEASURED_STEPS:
                self._show(self._seconds / self._measured, f"measured on {self._measured} steps")

    def _show(self, step_seconds: float, how: str) -> None:
        rest = self._steps * step_seconds + self._validations * self._validation_seconds
        if rest >= SHORTEST:
            speed = f"{step_seconds:.2g} s a step"
            line = f"train: about {duration(rest)} for {self._steps:,} steps at most, {speed} {how}"
            self._progress.tell([line])


def _gigaflops(rate: float) -> str:
    return f"{rate / 1e9:,.0f}" if rate >= 1e10 else f"{rate / 1e9:.2g}"


def newest_utilisation(context: Context) -> float | None:
    """Return the share of its device's peak rate that the store's newest training reached; None where it is not
    recorded."""
    newest = max(
        context.store.read_all(CHECKPOINTS, ["checkpoint_id", "created_at"]).to_pylist(),
        key=lambda row: row["created_at"],
        default=None,
    )
    rows = context.store.read_all(TRAINING, ["checkpoint_id", "step", "model_flops_utilisation"]).to_pylist()
    shares = {
        row["step"]: row["model_flops_utilisation"]
        for row in rows
        if newest and row["checkpoint_id"] == newest["checkpoint_id"] and row["model_flops_utilisation"]
    }
    return float(shares[max(shares)]) if shares else None
