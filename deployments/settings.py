"""What an operator sets in serve_config.yaml. Unknown keys are refused."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_data_path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from chatterbox_engine.config import EngineConfig

Role = Literal["ingress", "voices", "jobs", "t3", "s3gen"]
Amount = Annotated[float, Field(gt=0)]
Stage = Literal["t3", "s3gen"]


class ServiceSettings(BaseModel):
    """Arguments of `deployments.app:build`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "auto"
    """auto, demo, dummy:NAME, a folder, or a hub id."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Which GPU is Ray's to say; Apple's are not used."""
    profile: str = "balanced"
    switches: dict[str, Any] = Field(default_factory=dict)
    """Switches of EngineConfig that differ from the profile's, such as {t3: {max_streams: 16}}."""
    layout: Literal["split", "colocated"] = "split"
    """split: T3 and S3Gen in replicas of their own. colocated: both in each of `s3gen_replicas`."""
    resources: dict[Role, dict[str, Amount]] = Field(default_factory=dict)
    """What one replica takes of its node, by deployment: CPU, GPU, and names that the operator gave to some nodes only
    (`ray start --resources`), which bind it to those. What is not named is shared out over the nodes that are there at
    the start; so name CPU and GPU where nodes come later than the configuration, as on Kubernetes."""
    t3_replicas: int = Field(1, ge=0)
    s3gen_replicas: int = Field(1, ge=0)
    t3_replicas_max: int | None = Field(None, ge=1)
    """As many as `t3_replicas` at least and so many at most, by the load; 0 at least: it may sleep. None: always
    `t3_replicas`."""
    s3gen_replicas_max: int | None = Field(None, ge=1)
    """The same of S3Gen."""
    scale_idle_s: float = Field(300.0, gt=0)
    """Without a stream, after which a stage that may sleep does."""
    cold_start_s: float = Field(30.0, gt=0)
    """From asking for a replica until it takes streams, until one has been seen to come."""
    wake_wait_s: float = Field(60.0, ge=0)
    """How long a request that finds the model asleep waits for it; then it is 503 with retry-after."""
    voices_folder: Annotated[str, BeforeValidator(str)] = Field(
        default_factory=lambda: str(user_data_path("chatterbox-serve") / "voices")
    )
    """Where uploaded voices are kept: a folder, or any address that fsspec knows, such as s3://bucket/voices (with the
    package s3fs). On a cluster, one that every node sees."""
    default_voice: str = "default"
    """The voice, by name or id, that "default" and OpenAI's names mean. default: the one built into the model."""
    require_consent: bool = False
    """Take no clip without consent=true: whoever sends it says that the speaker agreed."""
    prepare_clips: bool = True
    """Silence before and after a clip's sound is cut off, and the clip brought to -27 LUFS. False: chatterbox-tts's own
    way, as it is."""
    keys_file: Path | None = None
    """Keys that clients must show (`python -m cli keys`). None: only this machine's own clients are served."""
    open_to_network: bool = False
    """Without keys, serve everybody who reaches the port: for where something in front asks who they are."""
    cors_origins: tuple[str, ...] = ()
    """Sites whose pages may call the service from a browser, such as https://app.example.com; "*": any."""
    max_characters: int = Field(4096, ge=1)
    """Longest input of one request."""
    max_upload_bytes: int = Field(20 * 2**20, ge=1024)
    """Largest clip."""
    jobs_folder: Path = Field(default_factory=lambda: user_data_path("chatterbox-serve") / "jobs")
    """Where long texts and their files are kept, of one service alone; on a cluster, on a disk that outlives nodes."""
    job_streams: int = Field(1, ge=1)
    """Pieces of long texts that are spoken at a time, beside live traffic and after it."""
    max_job_characters: int = Field(1_000_000, ge=1)
    log_texts: bool = False
    """Texts stand in the log lines of their requests. They are what people said: mind who reads the log."""
    traces: str | None = Field(None, pattern="^(https?://|file:///)")
    """Where OpenTelemetry's spans of each request go: a collector that takes OTLP over HTTP
    (http://127.0.0.1:4318/v1/traces), or a file of JSON lines (file:///tmp/spans.jsonl). None: there are none."""
    client_stall_s: float = Field(30.0, gt=0)
    """A client that takes no audio for so long is cut off, where the transport tells (docs/operations.md)."""
    drain_s: float = Field(120.0, ge=0)
    """How long streams have to end once the service is told to (SIGTERM, `python -m cli drain`); then they are cut.
    Whoever sends the signal wants more patience than that."""

    @model_validator(mode="after")
    def _a_gpu_is_asked_for_by_both_names(self) -> "ServiceSettings":
        """`auto` looks at the nodes that are there, and would put a replica that holds a GPU on the CPU."""
        if self.device != "cuda" and any("GPU" in taken for taken in self.resources.values()):
            raise ValueError("resources name a GPU: say device: cuda, too.")
        return self

    @model_validator(mode="after")
    def _replicas_make_sense(self) -> Self:
        for stage, least, most in (
            ("t3", self.t3_replicas, self.t3_replicas_max),
            ("s3gen", self.s3gen_replicas, self.s3gen_replicas_max),
        ):
            name = f"{stage}_replicas"
            if most is None and least == 0:
                raise ValueError(f"{name} 0 lets the stage sleep: set {name}_max, which says how many may wake.")
            if most is not None and most < least:
                raise ValueError(f"{name}_max ({most}) is below {name} ({least}): raise it, or leave it out.")
        if self.layout == "colocated" and (self.t3_replicas_max is not None or self.t3_replicas == 0):
            raise ValueError("With layout colocated T3 is in S3Gen's replicas: set s3gen_replicas_max alone.")
        lead_s = self.engine_config().s3gen.max_lead_s if self.t3_replicas == 0 else 0.0
        if self.scale_idle_s <= lead_s:
            raise ValueError(
                f"scale_idle_s ({self.scale_idle_s:g}) is not above s3gen.max_lead_s ({lead_s:g}): T3 would "
                "fall asleep while listeners play what is there of a text, and they would wait for it. Raise it."
            )
        if 0 in (self.t3_replicas, self.s3gen_replicas) and self.scale_idle_s <= self.wake_wait_s:
            raise ValueError(
                f"scale_idle_s ({self.scale_idle_s:g}) is not above wake_wait_s ({self.wake_wait_s:g}): who has woken "
                "would fall asleep again while requests wait for the other stage. Raise it."
            )
        return self

    def most(self, stage: Stage) -> int:
        """Replicas of a stage that there may be."""
        if stage == "t3":
            return self.t3_replicas_max or self.t3_replicas
        return self.s3gen_replicas_max or self.s3gen_replicas

    def may_sleep(self, stage: Stage) -> bool:
        """It has no replica while nobody speaks."""
        return (self.t3_replicas if stage == "t3" else self.s3gen_replicas) == 0

    def scales(self, stage: Stage) -> bool:
        """Their number follows the load."""
        return (self.t3_replicas_max if stage == "t3" else self.s3gen_replicas_max) is not None

    def engine_config(self) -> EngineConfig:
        """The engine's configuration. Raises InvalidRequest for an unknown profile or switch."""
        return EngineConfig.profile(self.profile, **self.switches)
