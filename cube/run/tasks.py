"""Tasks and what became of them: what every engine shares."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

Task = TypeVar("Task")
Task_co = TypeVar("Task_co", covariant=True)
Result = TypeVar("Result")
AHEAD = 2
"""Tasks in flight per thread: enough to keep every thread busy, and few enough to keep the
scheduler's graph small."""


@dataclass(frozen=True)
class Outcome(Generic[Task, Result]):
    """What became of one task: a value, or the exception that ended it."""

    task: Task
    value: Result | None = None
    error: BaseException | None = None

    def get(self) -> Result:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


class TaskSource(Protocol[Task_co]):
    """Gives tasks as capacity for them frees up."""

    def take(self, count: int) -> Sequence[Task_co]:
        """Return up to `count` tasks, as soon as there are some; none if `count` is not above 0.

        None now does not mean that none comes later; it does when no task of the source is at work.
        """
        ...


class Tasks(Generic[Task]):
    """The tasks of an iterable, which is drawn from as they are taken.

    Parameters
    ----------
    tasks
        May be endless; it is drawn from in one thread.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = iter(tasks)

    def take(self, count: int) -> Sequence[Task]:
        """Return the next tasks, fewer than `count` only at the end."""
        return list(itertools.islice(self._tasks, max(count, 0)))


class Engine(Protocol):
    """Runs a function over tasks, some at a time."""

    @property
    def slots(self) -> int:
        """How many tasks can run at once."""
        ...

    def run(
        self, function: Callable[[Task], Result], tasks: TaskSource[Task], scope: str
    ) -> Generator[Outcome[Task, Result]]:
        """Yield an outcome per task, as they come; closed before the end, it gives the rest up.

        Parameters
        ----------
        function
            What is done with a task.
        tasks
            Taken from as capacity frees up, and after each outcome.
        scope
            Address of what the tasks write to.

        Raises
        ------
        BusyError
            If another run has taken over a lock of the thread that asks for outcomes.
        """
        ...

    def wait_for_earlier_tasks(self, scope: str) -> None:
        """Wait until no task of an earlier client, which was killed, is at work in a scope."""
        ...


def outcome_of(task: Task, future: Any) -> Outcome[Task, Any]:
    """Return what became of a task whose future has ended."""
    try:
        return Outcome(task, future.result())
    except Exception as error:  # noqa: BLE001  whatever ended the task is what became of it
        return Outcome(task, error=error)
