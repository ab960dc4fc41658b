"""The section `serving` of the configuration: the endpoint, its limits, and how a new version takes over."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ember_platform.config_data import Location, Section
from ember_platform.config_yaml import fault
from ember_platform.serving.schemas import MAX_BATCH, MAX_ROBOTS, MAX_TASK_CHARS
from ember_platform.storage import absolute

#: Host names that mean this machine only.
_LOOPBACK_NAMES = ("localhost", "ip6-localhost")


def _registered_or_absolute(model: str) -> str:
    """A folder as an absolute path: replicas have another working directory."""
    return model if model.startswith("models:/") else absolute(model)


class LimitsConfig(Section):
    """What a request may be. All of it is checked before anything is decoded."""

    body_bytes: int = Field(default=12_000_000, ge=1_000, description="bytes of a request's body, at least 1000")
    batch_body_bytes: int = Field(default=32_000_000, ge=1_000, description="bytes of a batch's body, at least 1000")
    body_seconds: float = Field(default=20.0, gt=0, description="seconds in which a body must have arrived, above 0")
    picture_bytes: int = Field(default=8_000_000, ge=100, description="bytes of a picture file, at least 100")
    pixels: int = Field(default=25_000_000, ge=1_024, description="pixels of a picture, at least 1024")
    task_chars: int = Field(default=1_000, ge=1, le=MAX_TASK_CHARS, description=f"characters, 1 to {MAX_TASK_CHARS}")
    robots: int = Field(default=64, ge=1, le=MAX_ROBOTS, description=f"robots of a fleet, 1 to {MAX_ROBOTS}")
    batch: int = Field(default=32, ge=1, le=MAX_BATCH, description=f"requests of a batch, 1 to {MAX_BATCH}")
    fleets: int = Field(default=64, ge=0, description="fleets that one key's owner may register; 0 is none")


class ReplicaConfig(Section):
    """One replica: its share of a machine, and how it works off its queue."""

    cpus: float = Field(default=1.0, gt=0, description="logical CPUs that Ray reserves for a replica, above 0")
    gpus: float = Field(default=0.0, ge=0, description="GPUs that Ray reserves for a replica; 0 is none")
    threads: int | Literal["auto"] = Field(
        default="auto", description="compute threads, at least 1, or auto (cpus, at most the machine's cores)"
    )
    decode_threads: int = Field(default=2, ge=1, description="threads that check and decode pictures, at least 1")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="auto (bf16 where the processor has it), bf16 or fp32"
    )
    max_batch: int = Field(default=16, ge=1, description="requests that share a pass at most, at least 1")
    max_writing: int = Field(default=2, ge=1, description="batches of reasoning under way at once, at least 1")
    max_new_tokens: int = Field(default=192, ge=1, le=1024, description="tokens of reasoning and plan, 1 to 1024")
    queue: int = Field(default=64, ge=1, description="requests that wait or are worked on; beyond: 503")
    deadline_s: float = Field(default=30.0, gt=0, le=600, description="for requests without X-Request-Timeout")
    fleet_cache: int = Field(default=64, ge=1, description="fleets whose keys and values are kept, at least 1")

    @model_validator(mode="after")
    def _threads(self) -> ReplicaConfig:
        if self.threads != "auto" and self.threads < 1:
            raise fault("serving.replica.threads", "a replica needs at least one thread")
        return self


class ScalingConfig(Section):
    """How many replicas: by requests under way, with delays that suit a request of 50 ms."""

    min_replicas: int = Field(default=1, ge=1, description="replicas kept without load, at least 1")
    max_replicas: int = Field(default=2, ge=1, description="replicas at most, at least min_replicas")
    target_ongoing: float = Field(default=4.0, gt=0, description="requests under way that one replica is there for")
    upscale_delay_s: float = Field(default=3.0, ge=0, description="seconds of load before a replica is added")
    downscale_delay_s: float = Field(default=60.0, ge=0, description="seconds without it before one is taken away")
    look_back_s: float = Field(default=5.0, gt=0, description="seconds over which requests are averaged, above 0")
    drain_s: float = Field(default=5.0, ge=0, description="seconds a leaving replica still takes stray requests")

    @model_validator(mode="after")
    def _order(self) -> ScalingConfig:
        if self.max_replicas < self.min_replicas:
            raise fault("serving.scaling.max_replicas", f"below min_replicas ({self.min_replicas})")
        return self


class GoldenConfig(Section):
    """The questions that a version answers before it takes traffic."""

    samples: int = Field(default=24, ge=1, le=500, description="questions of EmberWorld's test split, 1 to 500")
    seed: int = Field(default=20_240, ge=0, description="which ones")
    max_drop: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="how far first choice may lie below the version's own test figure, 0 to 1 (few questions: noise)",
    )
    min_first_choice: float = Field(default=0.0, ge=0, le=1, description="the least first choice whatever it claims")
    min_agreement: float = Field(
        default=0.9, ge=0, le=1, description="share of first choices that the served precision shares with float32"
    )


class RolloutConfig(Section):
    """How a new version takes over, and what sends it back."""

    poll_s: float = Field(default=5.0, gt=0, description="seconds between looks at the registry, above 0")
    golden: GoldenConfig = Field(default=GoldenConfig(), description="the questions before traffic")
    probation_s: float = Field(default=300.0, ge=0, description="seconds that the version before is kept beside")
    max_error_rate: float = Field(default=0.05, ge=0, le=1, description="failed share that sends a version back")
    min_requests: int = Field(default=20, ge=1, description="requests before the error rate counts, at least 1")
    canary_percent: float = Field(default=0.0, ge=0, le=100, description="requests that the challenger answers, in %")
    shadow_percent: float = Field(default=0.0, ge=0, le=100, description="requests it answers unseen beside, in %")
    record_bytes: int = Field(default=64_000_000, ge=1_000, description="bytes of a replica's comparison records kept")


class DriftConfig(Section):
    """How far requests are from what the model was trained on."""

    data_dir: Location | None = Field(
        default=None, description="the data folder with the training manifest, or null: data.dir where it has one"
    )
    samples: int = Field(default=512, ge=16, description="training records that make the reference, at least 16")
    window: int = Field(default=512, ge=16, description="latest requests that are compared with it, at least 16")


class ServingConfig(Section):
    """The robot-selection endpoint."""

    model: Annotated[str, AfterValidator(_registered_or_absolute)] | None = Field(
        default=None, min_length=1, description="models:/name@alias, a model folder, or null: the registry's champion"
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on; beyond loopback with keys")
    port: int = Field(default=8000, ge=1, le=65_535, description="TCP port, 1 to 65535")
    ingress: Literal["haproxy", "proxy"] = Field(
        default="haproxy", description="haproxy (fast; no TLS: loopback or a private network) or proxy (Ray's own)"
    )
    keys: Location | None = Field(
        default=None, description="file of hashed bearer keys, or null: no keys are asked for"
    )
    open_without_keys: bool = Field(
        default=False, description="listen beyond loopback although there are no keys: true or false"
    )
    state_dir: Location = Field(
        default="outputs/serving", description="local folder of registered fleets, quota and comparison records"
    )
    limits: LimitsConfig = Field(default=LimitsConfig(), description="what a request may be")
    replica: ReplicaConfig = Field(default=ReplicaConfig(), description="one replica")
    scaling: ScalingConfig = Field(default=ScalingConfig(), description="how many replicas")
    rollout: RolloutConfig = Field(default=RolloutConfig(), description="how a new version takes over")
    drift: DriftConfig = Field(default=DriftConfig(), description="distance from the training data")

    @model_validator(mode="after")
    def _together(self) -> ServingConfig:
        if self.limits.batch > self.replica.queue:
            raise fault("serving.limits.batch", f"more than serving.replica.queue ({self.replica.queue}) can hold")
        if "://" in self.state_dir:
            raise fault("serving.state_dir", f"{self.state_dir} is not a local folder")
        return self


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reachable from this machine only."""
    if host.lower() in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False  # a name: whatever it resolves to, others may reach it
