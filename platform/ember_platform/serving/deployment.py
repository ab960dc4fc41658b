"""The endpoint on Ray Serve: one deployment that answers, one that holds what its replicas share."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import Field, ValidationError
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from ember_platform.config import RunConfig, load_config
from ember_platform.config_data import Section
from ember_platform.config_serving import RolloutConfig, ServingConfig, is_loopback
from ember_platform.serving.http import create_app
from ember_platform.serving.keys import Counts, Keys
from ember_platform.serving.metrics import RayMetrics
from ember_platform.serving.problems import ProblemError
from ember_platform.serving.service import Service
from ember_platform.serving.shared import LocalState, Snapshot, StoredFleet, Verdict

logger = logging.getLogger(__name__)

SELECTOR, STATE = "Selector", "SharedState"


class OpenError(RuntimeError):
    """The endpoint would be open to strangers. The message says what to set."""


class AppArgs(Section):
    """Arguments of `serve.app:app`, from `serve run` (key=value) or the YAML of `serve deploy` (`args:`)."""

    config: str = Field(default="configs/laptop.yaml", description="the run configuration, read where Serve builds")
    overrides: list[str] = Field(default=[], description="dotted overrides of it, as serving.replica.cpus=2")


class SharedStateDeployment:
    """`LocalState` in a replica of its own."""

    def __init__(self, state_dir: str) -> None:
        self._state = LocalState(state_dir)

    async def call(self, name: str, *arguments: Any) -> Any:
        """One of `SharedState`'s calls."""
        return await getattr(self._state, name)(*arguments)


class RemoteState:
    """`SharedState` through a deployment's handle."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def _call(self, name: str, *arguments: Any) -> Any:
        try:
            async with asyncio.timeout(10):
                return await self._handle.call.remote(name, *arguments)
        except (RayError, RayServeException, TimeoutError) as error:
            text = "Registered fleets cannot be reached now."
            raise ProblemError("not-ready", text, retry_after_s=2) from error

    async def put_fleet(self, owner: str, fleet: StoredFleet, most: int) -> str:
        """See `SharedState`."""
        return await self._call("put_fleet", owner, fleet, most)

    async def get_fleet(self, owner: str, name: str) -> StoredFleet | None:
        """See `SharedState`."""
        return await self._call("get_fleet", owner, name)

    async def delete_fleet(self, owner: str, name: str) -> bool:
        """See `SharedState`."""
        return await self._call("delete_fleet", owner, name)

    async def list_fleets(self, owner: str) -> list[StoredFleet]:
        """See `SharedState`."""
        return await self._call("list_fleets", owner)

    async def sync(
        self, replica: str, usage: Counts, rejected: dict[str, Verdict], aliases: dict[str, float]
    ) -> Snapshot:
        """See `SharedState`."""
        return await self._call("sync", replica, usage, rejected, aliases)


class Selector:
    """A replica of the endpoint. It is ready, and gets requests, once the champion is loaded and checked."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: dict[str, Any], shared: DeploymentHandle, page: str | None
    ) -> None:
        self._config = RunConfig.model_validate(config)
        check_open(self._config.serving, await _listens_on())
        replica = serve.get_replica_context().replica_tag
        self._page = Path(page) if page else None
        self.service = Service(self._config, RemoteState(shared), RayMetrics(), replica)
        await self.service.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self.service, self._page)

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Take over changes of `serving.rollout` without a restart, as canary_percent; and `draining`."""
        changed = {**self._config.serving.rollout.model_dump(), **dict(user_config.get("rollout", {}))}
        self.service.reconfigure(RolloutConfig.model_validate(changed), bool(user_config.get("draining", False)))

    def drain(self) -> None:
        """Refuse what is new from now on, and finish what is under way; for `DeploymentHandle.broadcast`."""
        self.service.draining = True

    def check_health(self) -> None:
        """See `Service.check`."""
        self.service.check()


async def _listens_on() -> str:
    """The address at which Serve takes requests, whatever the configuration says of it."""
    from ray.serve.context import _get_global_client

    client = await asyncio.to_thread(_get_global_client)
    host = client.http_config.host if client is not None else None
    return host or "0.0.0.0"


def check_open(serving: ServingConfig, host: str) -> None:
    """That strangers cannot ask, unless that is meant.

    Raises:
        OpenError: beyond loopback without a single key, and not told to be open.
    """
    if is_loopback(host) or serving.open_without_keys or len(Keys(serving.keys)):
        return
    raise OpenError(
        f"it would listen on {host} and answer anyone: set serving.keys to a file with a key "
        "(python -m ember_platform.serving.keys create --file keys.yaml --name …), or serving.open_without_keys=true "
        "where something before it asks for keys"
    )


def build(args: Mapping[str, Any], page: Path | None) -> Application:
    """The application of `serve.app:app`.

    Args:
        args: see `AppArgs`; `overrides` may also be one text with blanks between.

    Raises:
        ConfigError: what is wrong with the configuration. ValueError: with the arguments.
    """
    values = dict(args)
    if isinstance(values.get("overrides"), str):
        values["overrides"] = values["overrides"].split()
    try:
        known = AppArgs.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"arguments of serve.app:app: {error}") from error
    return application(load_config(known.config, known.overrides), page)


#: The model's thread alone has a team of OpenMP threads, which it asks for itself (`worker.Worker`). With a second team
#: in the process there are more threads than cores, and GNU OpenMP then sleeps in place of spinning between operations:
#: a selection by embervlm-37m on two cores took 75 ms, and 43 ms without it. That thread's memory is kept as
#: `cluster/runtime_env.yaml` keeps a training thread's, and for the same reason.
REPLICA_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "4294967295",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "67108864",
    "MALLOC_ARENA_MAX": "1",
}


def application(config: RunConfig, page: Path | None) -> Application:
    """Both deployments, with the replicas, limits and scaling that the configuration asks for."""
    serving = config.serving
    replica, scaling = serving.replica, serving.scaling
    shared = serve.deployment(name=STATE, num_replicas=1, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})(
        SharedStateDeployment
    ).bind(serving.state_dir)
    selector = serve.deployment(
        name=SELECTOR,
        # Its own queue refuses first, with a problem that says why; Serve's stand behind it.
        max_ongoing_requests=2 * replica.queue,
        max_queued_requests=2 * replica.queue,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        autoscaling_config=AutoscalingConfig(
            min_replicas=scaling.min_replicas,
            initial_replicas=scaling.min_replicas,
            max_replicas=scaling.max_replicas,
            target_ongoing_requests=scaling.target_ongoing,
            upscale_delay_s=scaling.upscale_delay_s,
            downscale_delay_s=scaling.downscale_delay_s,
            look_back_period_s=scaling.look_back_s,
            metrics_interval_s=min(1.0, scaling.look_back_s),
        ),
        health_check_period_s=5,
        health_check_timeout_s=20,
        graceful_shutdown_timeout_s=max(20.0, replica.deadline_s),
        ray_actor_options={
            "num_cpus": replica.cpus,
            "num_gpus": replica.gpus,
            "runtime_env": {"env_vars": dict(REPLICA_ENVIRONMENT)},
        },
        user_config={"rollout": {}, "draining": False},
    )(serve.ingress(None)(Selector))
    return selector.bind(config.model_dump(mode="json"), shared, str(page) if page else None)


def is_private(host: str) -> bool:
    """Whether an address belongs to this machine or a private network: where traffic without TLS may be acceptable."""
    if is_loopback(host):
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return address.is_private and not address.is_unspecified
