"""What planning an area came to: its plan with what that would take, or why it has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from cube.config.aoi import Aoi
from cube.scenes.estimate import Cost, estimate_cost
from cube.scenes.explain import SceneOutcome, Skipped
from cube.scenes.plan import CubePlan


@dataclass(frozen=True)
class AreaOutcome:
    """An area after planning."""

    aoi: Aoi
    plan: CubePlan | None
    """None where it has none."""
    windows: Mapping[str, int] = field(default_factory=dict)
    """Candidate windows by the name of their class."""
    error: Exception | None = None
    """Why it has no plan, or why its land cover cannot be read."""

    @property
    def status(self) -> str:
        """``planned``, ``skipped`` (there are no scenes for it) or ``failed``."""
        if self.error is None:
            return "planned"
        return "skipped" if isinstance(self.error, Skipped) else "failed"

    @property
    def reason(self) -> str:
        """Why it is not to be built, in one line."""
        return "" if self.error is None else str(self.error)

    @cached_property
    def cost(self) -> Cost:
        """What its cube is expected to take; nothing where there will be none."""
        return Cost() if self.plan is None or self.error else estimate_cost(self.plan)

    @property
    def scenes_seen(self) -> tuple[SceneOutcome, ...]:
        """Every scene that was seen, and why it was chosen or lost."""
        if self.plan is not None:
            return self.plan.scenes_seen
        return self.error.scenes_seen if isinstance(self.error, Skipped) else ()
