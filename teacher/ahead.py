"""`rollout_ahead`: the student answers later batches while the trainer learns from this one.

TRL asks for a step's rewards inside `_generate_and_score_completions` and waits for them. Here that method runs as a greenlet that hands
control back as soon as its student calls are on their way, and is resumed, in order, when its batch is due: nothing of TRL is written
twice, and only one of the two runs at a time. A batch that was begun k updates ago carries the log-probabilities of the weights that wrote
it, so that the clipped loss corrects for the difference (PPO's importance ratio, arXiv 1707.06347, eq. 7; staleness bounded as in AReaL,
arXiv 2505.24298). The last batches of an epoch and of the run are drained; a run that ends early waits for those in flight, whose
answers the cache keeps.

Hooks of TRL and transformers that this stands on, each named by a test: `get_batch_samples`, `_generate_and_score_completions`,
`_calculate_rewards`, `_step`, `num_iterations`, `async_loop`, `_metrics`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from typing import Any

Begin = Callable[[asyncio.AbstractEventLoop, list[list[int]], list[str]], None]
"""Sends a batch's student calls off on a loop; the reward that is asked for next, in the same order, takes what they bring."""


@cache
def ahead_of(trainer_class: type[Any]) -> type[Any]:
    """A subclass of one of TRL's trainers that keeps `rollout_ahead` generated batches beyond the one it learns from in flight."""
    from greenlet import getcurrent, greenlet

    class AheadTrainer(trainer_class):
        num_iterations: int

        def __init__(self, *args: Any, rollout_ahead: int, begin: Begin, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._ahead = rollout_ahead
            self._begin = begin
            self._drawn: deque[Any] = deque()
            """Micro-batches of the epoch from the one of `_first` on; those before it are learnt from."""
            self._first = 0
            self._in_flight: deque[tuple[Any, int]] = deque()
            """Suspended batches, the oldest first, each with the update that it was begun before."""

        @property
        def _period(self) -> int:
            """Micro-batches that one generated batch serves."""
            return int(self.args.steps_per_generation * self.num_iterations)

        def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
            """An update's micro-batches, as transformers draws them, after drawing those of the batches to be begun ahead of it."""
            while self._drawn and self._first < self._step:
                self._drawn.popleft()
                self._first += 1
            self._first = self._step
            wanted = num_batches + self._ahead * self._period
            self._drawn.extend(islice(epoch_iterator, max(0, wanted - len(self._drawn))))
            return super().get_batch_samples(iter(list(islice(self._drawn, num_batches))), num_batches, device)

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            if not self.model.training:
                return super()._generate_and_score_completions(inputs)
            if not self._in_flight:
                self._set_off(inputs)
            updates_left = self.state.max_steps - self.state.global_step
            for later in range(len(self._in_flight), self._ahead + 1):
                index = self._step - self._first + later * self._period
                if index >= len(self._drawn) or index >= updates_left * self.args.gradient_accumulation_steps:
                    break
                self._set_off(self._drawn[index])
            suspended, begun = self._in_flight.popleft()
            batch = suspended.switch()
            self._metrics["train"]["rollout_age"].append(float(self.state.global_step - begun))
            return batch

        def _set_off(self, inputs: Any) -> None:
            """Generate a batch with the present weights, up to the point where its student calls are on their way."""
            suspended = greenlet(super()._generate_and_score_completions)
            # GRPO keeps the log-probabilities of the weights that wrote a batch only where a batch outlives an update.
            aligned, self.num_iterations = self.num_iterations, self.args.gradient_accumulation_steps + 1
            try:
                suspended.switch(inputs)
            finally:
                self.num_iterations = aligned
            self._in_flight.append((suspended, self.state.global_step))

        def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
            if self.model.training:
                self._begin(self.async_loop, completion_ids_list, [row["example_id"] for row in inputs])
                getcurrent().parent.switch()
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    return AheadTrainer
