"""What a run says of itself: before it starts, and of its end after the first steps."""

import time
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from toolkit.data.source import counted
from toolkit.training.trainer import RunOptions, Training

SOON = 5.0  # seconds of training, or MANY steps, after which the time of a step is told
MANY = 50
PASSES = 3  # a step's passes through a network, forward and backward, in forward passes
NOTABLE = 0.1  # of the training time: a grid that takes longer is announced


def introduction(
    folder: Path, options: RunOptions, training: Training, micro_batch: int, examples: int,
    computes: dict[str, object], processes: int,
) -> Iterator[str]:  # fmt: skip
    """What is trained, for how long, on what, and where it is kept; then a line a network."""
    last, batch = options.last_step, options.batch_size
    ends = [] if last is None else [counted(last, "step")]
    if options.minutes is not None:
        ends.append(f"{options.minutes:g} minutes without the final grid")
    first = ", whichever comes first," if len(ends) > 1 else ""
    parts = "" if micro_batch == batch else f" in micro-batches of {micro_batch}"
    passes = 0.0 if last is None else last * batch / examples
    epochs = "" if last is None else f" ({passes:,.0f} epochs)" if passes >= 10 else f" ({passes:.2g} epochs)"
    several = f", {processes} processes" if processes > 1 else ""
    where = f"on {computes['device']} in {computes['precision']}{several}"
    yield f"run: {' or '.join(ends)}{first} of {counted(batch, 'example')}{parts}{epochs}, {where}; {folder}"
    for role, network in training.networks.items():
        trained = "" if role in training.optimizers else ", not trained"
        yield f"network {role!r}: {_described(network)}{trained}"
    for role, chosen in training.optimizer_options.items():
        end = chosen.lr_schedule.end
        if end is not None and last is not None and end < last:
            base = training.optimizers[role].param_groups[0]["lr"]
            rate = f"{chosen.lr_schedule(base, end):g}"
            yield (
                f"the learning rate of {role!r} is at its end, {rate}, after {counted(end, 'step')} and "
                f'for {last - end:,} more: in [optimizers.{role}.lr_schedule] steps = "run" ends with the run'
            )


def _described(network: nn.Module) -> str:
    total = sum(p.numel() for p in network.parameters())
    frozen = total - sum(p.numel() for p in network.parameters() if p.requires_grad)
    return f"{type(network).__name__}, {counted(total, 'parameter')}{f', {frozen:,} frozen' * bool(frozen)}"


class Forecast:
    """Tells, once, how long a step takes and when the run will end.

    Args:
        first: the step that training begins with.
        options: of the run.
        grid: samples x network calls of the grid at the end.
        began: when the run's minutes began, in `time.monotonic()`.
    """

    def __init__(self, first: int, options: RunOptions, grid: int, began: float) -> None:
        self._first, self._options, self._grid, self._began = first, options, grid, began
        self._since: float | None = None  # the first step is longer than others, and not counted
        self._told = False

    def after(self, number: int) -> Iterator[str]:
        """What is to be said after step `number`: nothing, or once a line or two."""
        now = time.monotonic()
        if self._since is None:
            self._since, self._first = now, number
            return
        taken, steps = now - self._since, number - self._first
        if self._told or (taken < SOON and steps < MANY):
            return
        self._told, each = True, taken / steps
        last, minutes = self._options.last_step, self._options.minutes
        remaining = float("inf") if last is None else (last - number) * each
        if minutes is not None and (left := max(60 * minutes - (now - self._began), 0.0)) < remaining:
            remaining, by = left, number + int(left / each)
            end = f"run.minutes, at about step {by:,}" + ("" if last is None else f" of {last:,}")
        else:
            end = f"step {last:,}"  # one of the two ends it
        if remaining > 2 * SOON:
            yield f"about {span(each)} a step: ends with {end} in {span(remaining)}, {clock(remaining)}"
        whole = remaining + now - self._since
        sampling = self._grid * each / PASSES / self._options.batch_size
        if sampling > max(NOTABLE * whole, 2 * SOON):
            yield (
                f"the grid at the end may take another {span(sampling)}: samples.num_inference_steps, or "
                "samples.num, makes it cheaper"
            )


def span(seconds: float) -> str:
    """A time span as people say it: `0.08 s`, `2.5 min`, `3.1 h`, `104 days`."""
    for length, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 1.5 * length:
            return (
                f"{seconds / length:.2g} {unit}"
                if seconds < 100 * length
                else f"{seconds / length:,.0f} {unit}"
            )
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def clock(seconds: float) -> str:
    """`at 14:05`, with the day if that is another one."""
    then, now = time.localtime(time.time() + seconds), time.localtime()
    same = then[:3] == now[:3]
    return time.strftime("at %H:%M" if same else "on %Y-%m-%d at %H:%M", then)
