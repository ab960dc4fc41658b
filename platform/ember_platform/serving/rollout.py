"""Which version answers: follows the registry, checks before it switches, and goes back when a version fails.

All state changes happen on the event loop, so that a request sees either the version before or the one after. A version
passes through: found → files match their digest → loads with all weights finite → golden set → switch; the version
before it is kept beside it while it is on probation. What fails on the way gets a verdict, which all replicas share
and heed, and no traffic.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ember_platform.config_serving import RolloutConfig
from ember_platform.serving import golden
from ember_platform.serving.engine import Engine, Precision, UnfitError
from ember_platform.serving.metrics import Metrics
from ember_platform.serving.shared import Verdict
from ember_platform.serving.sources import Found, Source
from ember_platform.serving.worker import Worker
from embervlm.fleet import Fleet, default_fleet

logger = logging.getLogger(__name__)

#: Versions that are tried at the start, following "replaced", before it is given up.
TRIES = 4


class Rollout:
    """See the module.

    Args:
        fleets: gives the fleets that were asked about lately, which a new version reads before it takes over.
    """

    def __init__(
        self,
        config: RolloutConfig,
        source: Source,
        worker: Worker,
        metrics: Metrics,
        precision: Precision,
        fleet_cache: int,
        device: str = "cpu",
        fleets: Callable[[], Sequence[Fleet]] = lambda: (),
    ) -> None:
        self.config = config
        self.champion: Engine | None = None
        self.previous: Engine | None = None
        self.challenger: Engine | None = None
        self.verdicts: dict[str, Verdict] = {}
        self.unsent: dict[str, Verdict] = {}
        self.aliases: dict[str, float] = {}
        self._source = source
        self._worker = worker
        self._metrics = metrics
        self._precision = precision
        self._fleet_cache = fleet_cache
        self._device = device
        self._fleets = fleets
        self._switched = 0.0
        self._outcomes: dict[str, list[int]] = {}

    # ------------------------------------------------------------ following

    async def start(self) -> None:
        """Bring the champion up; where it is unfit, the version that it replaced, and so on.

        Raises:
            UnfitError: none of them can be served. RegistryError: there is no champion.
        """
        found = await asyncio.to_thread(self._source.champion)
        self.aliases = {found.facts.version: time.time()}
        for _ in range(TRIES):
            version = found.facts.version
            if version not in self.verdicts:
                engine = await self._bring(found)
                if engine is not None:
                    self._switch(engine)
                    return
            if found.replaced is None:
                break
            found = await asyncio.to_thread(self._source.version, found.replaced)
        raise UnfitError(f"no version can be served: {'; '.join(f'{v}: {w.why}' for v, w in self.verdicts.items())}")

    async def poll(self) -> None:
        """Look at the registry once, and do what it says."""
        found = await asyncio.to_thread(self._source.champion)
        rival = await asyncio.to_thread(self._source.challenger) if self._wants_challenger() else None
        self.aliases = {f.facts.version: time.time() for f in (found, rival) if f is not None}
        self._heed()
        await self._follow_champion(found)
        await self._follow_challenger(rival)
        if self.previous is not None and time.monotonic() - self._switched > self.config.probation_s:
            self._metrics.put("ember_version_loaded", 0, version=self.previous.version, role="previous")
            self.previous = None

    async def _follow_champion(self, found: Found) -> None:
        version, serving = found.facts.version, self.champion.version if self.champion is not None else None
        if version in self.verdicts:
            if serving != version or found.replaced is None or found.replaced in self.verdicts:
                return
            # Other replicas sent it back, and here the version before it is not loaded any more.
            found = await asyncio.to_thread(self._source.version, found.replaced)
        elif serving == version:
            return
        for loaded in (self.previous, self.challenger):
            if loaded is not None and loaded.version == found.facts.version:
                self._switch(_under(loaded, found.facts.alias))  # it has passed the checks, and is warm
                return
        engine = await self._bring(found)
        if engine is not None:
            self._switch(engine)

    async def _follow_challenger(self, found: Found | None) -> None:
        version = found.facts.version if found is not None else None
        if self.challenger is not None and self.challenger.version != version:
            self._metrics.put("ember_version_loaded", 0, version=self.challenger.version, role="challenger")
            self.challenger = None
        serving = self.champion.version if self.champion is not None else None
        if found is None or self.challenger is not None or version == serving or version in self.verdicts:
            return
        self.challenger = await self._bring(found)
        if self.challenger is not None:
            self._outcomes.pop(self.challenger.version, None)
            self._metrics.put("ember_version_loaded", 1, version=self.challenger.version, role="challenger")

    def _wants_challenger(self) -> bool:
        return self.config.canary_percent > 0 or self.config.shadow_percent > 0

    async def _bring(self, found: Found) -> Engine | None:
        """Load and check a version beside the present one, or note why it cannot be served."""
        version = found.facts.version
        logger.info("rollout: version %s is loaded and checked", version)
        try:
            return await asyncio.to_thread(self._load, found)
        except UnfitError as error:
            self._metrics.add("ember_switches", outcome="refused")
            logger.error("rollout: version %s is refused: %s", version, error)
            self._judge(version, str(error))
            return None

    def _load(self, found: Found) -> Engine:
        import torch

        torch.set_num_threads(1)  # of this thread; see `deployment.REPLICA_ENVIRONMENT`

        def run(function: Callable[[], Any]) -> Any:
            return self._worker.idle(function).result()

        engine = Engine.load(found.fetch(), found.facts, self._fleet_cache, self._device)
        engine.golden = golden.check(engine, self.config.golden, self._precision, run)
        for fleet in (*self._fleets(), default_fleet()):
            run(partial(engine.read_fleet, fleet))
        return engine

    def _switch(self, engine: Engine) -> None:
        before, self.champion = self.champion, engine
        self.previous = before if before is not None and before.version not in self.verdicts else None
        if self.challenger is not None and self.challenger.version == engine.version:
            self._metrics.put("ember_version_loaded", 0, version=engine.version, role="challenger")
            self.challenger = None
        self._switched = time.monotonic()
        self._outcomes.pop(engine.version, None)
        self._metrics.add("ember_switches", outcome="taken")
        for role, one in (("champion", engine), ("previous", before)):
            if one is not None:
                self._metrics.put("ember_version_loaded", 1, version=one.version, role=role)
        if before is not None:
            self._metrics.put("ember_version_loaded", 0, version=before.version, role="champion")
        logger.info("rollout: version %s answers now", engine.version)

    # ------------------------------------------------------------ going back

    def outcome(self, engine: Engine, answered: bool) -> None:
        """Count whether a version answered a request that another could answer; send it back past the error rate."""
        counts = self._outcomes.setdefault(engine.version, [0, 0])
        counts[0 if answered else 1] += 1
        if answered:
            return
        self._metrics.add("ember_model_failures", version=engine.version)
        total = sum(counts)
        if total < self.config.min_requests or counts[1] / total <= self.config.max_error_rate:
            return
        if self.replacement(engine) is not None:
            self._judge(engine.version, f"it failed on {counts[1]} of {total} requests")
            self._heed()

    def replacement(self, engine: Engine) -> Engine | None:
        """Who answers where a version fails: the version before it, or the champion for a challenger."""
        if self.champion is not None and engine.version == self.champion.version:
            return self.previous
        return self.champion

    def learn(self, verdicts: dict[str, Verdict]) -> None:
        """Take over what all replicas know, and act on it."""
        self.verdicts = {**verdicts, **self.unsent}
        self._heed()

    def _judge(self, version: str, why: str) -> None:
        verdict = Verdict(why=why, at=time.time())
        self.verdicts[version] = self.unsent[version] = verdict

    def _heed(self) -> None:
        """Stop what has a verdict, as far as there is something else to answer with."""
        if self.challenger is not None and self.challenger.version in self.verdicts:
            self._metrics.put("ember_version_loaded", 0, version=self.challenger.version, role="challenger")
            self.challenger = None
        champion, previous = self.champion, self.previous
        if champion is None or champion.version not in self.verdicts:
            return
        if previous is None or previous.version in self.verdicts:
            return
        self.champion, self.previous = _under(previous, None), None
        self._metrics.add("ember_switches", outcome="rolled_back")
        self._metrics.put("ember_version_loaded", 0, version=champion.version, role="champion")
        self._metrics.put("ember_version_loaded", 1, version=previous.version, role="champion")
        why = self.verdicts[champion.version].why
        logger.error("rollout: version %s goes back to %s: %s", champion.version, previous.version, why)


def _under(engine: Engine, alias: str | None) -> Engine:
    """The same loaded model under another alias; what is under way keeps the name that it started with."""
    renamed = copy.copy(engine)
    renamed.facts = dataclasses.replace(engine.facts, alias=alias)
    return renamed
