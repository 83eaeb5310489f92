"""Typed specifications: what a scenario, a stack, a piece of hardware and a profile are.

All are frozen and strict: an unknown key, a wrong type or an impossible value is an error
that names the allowed ones. They are read from YAML by :mod:`harness.strict_yaml`.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from harness.arrivals import Arrivals
from harness.experiments import Experiment, Zipf
from harness.fields import Count, Name, NonNegative, Positive
from harness.fields import Spec as Spec
from harness.objective import SCORES, Objective

Word = Literal["low", "medium", "high"]
QualityNeed = Literal["medium", "medium-high", "high"]
Protocol = Literal["openai-chat", "triton-generate-stream", "triton-grpc"]
Split = Literal["all", "train", "held-out"]
ScenarioName = Name


class ThinkTime(Spec):
    """Seconds a user waits between an answer and the next request.

    ``lognormal`` has the stated mean and ``sigma`` as the standard deviation of its logarithm.
    """

    distribution: Literal["constant", "exponential", "lognormal"]
    mean_s: NonNegative
    sigma: Positive | None = None
    reason: str

    @model_validator(mode="after")
    def _sigma_only_for_lognormal(self) -> Self:
        if (self.distribution == "lognormal") != (self.sigma is not None):
            raise ValueError("sigma belongs to distribution: lognormal, which needs it, and to no other")
        return self


class Workload(Spec):
    """Where prompts come from.

    ``conversation``: turns with growing history; ``brief``: one writing brief each;
    ``translation``: one sentence into one target language; ``dataset``: a user's JSONL;
    ``synthetic``: words of a seeded vocabulary, ``input_tokens`` long.
    """

    kind: Literal["conversation", "brief", "translation", "dataset", "synthetic"]
    data: tuple[str, ...] = ()
    """Files beside the catalog's workloads, or absolute paths; one or several."""
    templates: str | None = None
    """Stem of ``<stem>.system.j2`` and ``<stem>.user.j2`` in ``workloads/templates``."""
    target_languages: tuple[str, ...] = ()
    difficulty: Literal["easy", "hard", "mixed"] = "mixed"
    split: Split = "all"
    """``train``: what prompts and thresholds may be tuned on; ``held-out``: what confirms them; ``all``: both."""
    output_tokens: Count
    output_length: Literal["natural", "forced"] = "natural"
    input_tokens: Count | None = None
    output_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the answers' texts that is kept for quality, drawn before outcomes are known."""
    repeat: Zipf | None = None
    """None: every prompt once before any comes again."""

    @field_validator("data", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        if isinstance(value, list):
            return tuple(value)
        return () if value is None else (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _needs(self) -> Self:
        if self.kind != "synthetic" and not self.data:
            raise ValueError(f"workload kind {self.kind} needs 'data', a JSONL file")
        if self.kind == "synthetic" and self.input_tokens is None:
            raise ValueError("workload kind synthetic needs 'input_tokens'")
        if self.kind == "synthetic" and self.repeat is not None:
            raise ValueError("synthetic prompts are words drawn anew for each request: none of them repeats")
        if self.kind == "translation" and not self.target_languages:
            raise ValueError("workload kind translation needs 'target_languages'")
        return self


class Timing(Spec):
    """How long a cell runs: judged are the requests issued in [warm_up_s, run_time_s] after all users are up."""

    warm_up_s: NonNegative
    run_time_s: Positive
    spawn_s: Positive = 5.0
    """Seconds in which all users are spawned."""

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Self:
        if self.warm_up_s >= self.run_time_s:
            raise ValueError("warm_up_s must be shorter than run_time_s, or nothing is judged")
        return self


class Quality(Spec):
    """When an answer is acceptable: each of these scores, as far as its prompt lets it be made, is at least this."""

    acceptable: Annotated[
        dict[str, Annotated[float, Field(gt=0, le=1)]], Field(min_length=1, description="score to its least value")
    ]
    reason: str

    @field_validator("acceptable")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            if name not in SCORES:
                raise ValueError(f"unknown score '{name}'; allowed: {', '.join(SCORES)}")
        return value


class Scenario(Spec):
    kind: Literal["scenario"]
    name: ScenarioName
    title: str
    variant_of: ScenarioName | None = None
    """Another scenario that this one is a wider or narrower form of: it runs only when it is named."""
    users: Count
    think_time: ThinkTime
    arrivals: Arrivals | None = None
    """None: a closed loop of ``users``. Else an open one, in which users and think time mean nothing."""
    sla: Annotated[tuple[Objective, ...], Field(min_length=1)]
    sla_reason: str
    """Why these percentiles: the requirement's own words name a limit, not a percentile."""
    cost_sensitivity: Word
    quality_need: QualityNeed
    quality: Quality | None = None
    """None: an answer is acceptable when it is there, whole, and text."""
    workload: Workload
    stacks: tuple[Name, ...]
    """The candidates, in the order of the report."""
    variants: tuple[Name, ...] = ()
    """Stacks that physics suggests; the cheapest that ``plan`` expects to pass is run too."""
    real: tuple[Name, ...] = ()
    """Stacks on a real engine of this machine."""

    @property
    def longest_limit_s(self) -> float:
        """The largest latency limit, seconds; 0 without a latency check."""
        return max((check.limit for check in self.sla if check.is_latency), default=0.0)

    @property
    def primary(self) -> Objective:
        """The first latency check, else the first check: the one a plan and a pick speak of."""
        return next((check for check in self.sla if check.is_latency), self.sla[0])


class Source(Spec):
    text: str
    url: str | None = None
    read: date | None = None


class Gpu(Spec):
    """Data-sheet figures: dense, never with sparsity."""

    name: Name
    title: str
    memory_gib: Positive
    """What the driver shows as usable, GiB."""
    bandwidth_gbps: Positive
    """Memory bandwidth, 10^9 bytes/s."""
    fp16_tflops: Positive
    int8_tops: Positive | None = None
    """None: no faster than fp16 on this GPU's tensor cores."""
    fp8_tflops: Positive | None = None
    watts: Positive
    interconnect_gbps: Positive | None = None
    """Per GPU, one direction, 10^9 bytes/s; for tensor-parallel all-reduces."""
    compute_capability: Positive | None = None
    """NVIDIA's: 7.5 is a T4, 8.0 an A100. Below 8.0 there is no bfloat16."""
    nvml_names: tuple[str, ...] = ()
    """What the driver calls it; any of these anywhere in the name means this GPU."""
    source: Source


class HardwareFile(Spec):
    kind: Literal["hardware"]
    gpus: Annotated[tuple[Gpu, ...], Field(min_length=1)]


class ModelShape(Spec):
    """What the roofline needs of a model.

    ``parameters`` counts everything but the input embedding's look-up table where that is not
    read per step; ``active_parameters`` is smaller for a mixture of experts.
    """

    name: str
    parameters: Positive
    active_parameters: Positive | None = None
    layers: Count
    hidden: Count
    kv_heads: Count
    head_dim: Count
    weight_bytes: Positive
    """Bytes per weight: 2 fp16, 1 INT8, 0.5 INT4 (scales left out, so floors stay floors)."""
    kv_bytes: Positive = 2.0
    compute: Literal["fp16", "int8", "fp8"] = "fp16"
    """Arithmetic of the matrix products: INT4 weights compute in fp16."""

    @property
    def kv_bytes_per_token(self) -> float:
        return 2.0 * self.layers * self.kv_heads * self.head_dim * self.kv_bytes


class Hardware(Spec):
    gpu: Name
    count: Count = 1
    """GPUs of one replica."""


class HourlyPrice(Spec):
    kind: Literal["hourly"]
    usd_per_gpu_hour: Positive
    source: Source


class TokenPrice(Spec):
    kind: Literal["tokens"]
    usd_per_million_input: NonNegative
    usd_per_million_output: NonNegative
    usd_per_million_cached_input: NonNegative | None = None
    """Of prompt tokens that the API had in its cache; None: as any other."""
    source: Source


class NoPrice(Spec):
    """A machine that is there anyway, such as the one the harness runs on."""

    kind: Literal["none"]
    reason: str


Price = Annotated[HourlyPrice | TokenPrice | NoPrice, Field(discriminator="kind")]


class Claim(Spec):
    """What somebody said of a stack in one scenario, in their words and as numbers."""

    latency_s: Positive | None = None
    latency_low_s: Positive | None = None
    latency_high_s: Positive | None = None
    """A range, where the claim is one ('1-2 s'); ``latency_s`` is then its middle."""
    latency_text: str = ""
    tokens: Count | None = None
    tokens_text: str = ""
    memory_gb: Positive | None = None
    cost_usd: Positive | None = None
    users: Count | None = None
    users_text: str = ""
    quality: str | None = None
    """One word (or words) of the quality scale."""
    quality_text: str = ""
    source: str


class Reduction(Spec):
    """A smaller load for an engine that stands in for a GPU; marked REDUCED."""

    users: Count
    output_tokens: Count
    think_mean_s: NonNegative | None = None
    timing: Timing | None = None


class Efficiency(Spec):
    """Shares of the data sheet that a good engine reaches, stated so that they can be disputed."""

    bandwidth: Annotated[float, Field(gt=0, le=1)] = 0.8
    compute: Annotated[float, Field(gt=0, le=1)] = 0.5
    overhead_s: NonNegative = 0.0005
    """Host time per step: scheduling, sampling, kernel launches."""
    memory: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of GPU memory the engine may use."""


class Emulation(Spec):
    """How the emulator plays this stack. API stacks have no roofline: always ``claims``."""

    calibration: Literal["roofline", "claims"] = "roofline"
    efficiency: Efficiency = Efficiency()
    max_batch: Count = 256
    prefix_cache: bool = False
    """Whether the start of a prompt that came before need not be computed again (roofline only)."""
    spread: NonNegative = 0.085
    """Sigma of the log of an API's latency: 5% to 95% lie within +-15%."""


class Launch(Spec):
    """Recipe of a server; which keys matter depends on the engine."""

    runtime: Literal["venv", "container", "path"] = "venv"
    """Where the engine's program comes from: an environment that the harness makes (``harness install``), a container
    ``image``, or an ``executable`` that is there already."""
    image: str | None = None
    executable: str | None = None
    """A program of ``runtime: path``, or another one than the engine's own within a container."""
    ssh_host: Annotated[str, Field(pattern=r"^[^-\s][^\s]*$")] | None = None
    """``user@host`` of another machine, or a name of the user's ssh configuration: the server runs there, its port is
    forwarded here, and the paths of weights are paths of that machine."""
    shared_memory_gib: Positive = 16.0
    """Upper limit of a container's ``/dev/shm``, through which tensor-parallel processes speak; it reserves nothing."""
    weights: str | None = None
    """A name of ``harness models``, a directory, or ``hf:ORGANISATION/NAME``; ``random:SHAPE`` makes weights up."""
    repository: str | None = None
    """A Triton model repository that is there already, served as it is; None: one is made for the stack."""
    dtype: Literal["auto", "half", "bfloat16", "float32"] | None = None
    """None: half where the GPU has no bfloat16, float32 where this machine's processor would emulate it, else the
    engine's own choice."""
    quantization: str | None = None
    memory_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the GPU's memory that the engine may use."""
    max_batch: Count | None = None
    """Requests that run together."""
    prefix_caching: bool | None = None
    data_parallel: Count = 1
    arguments: tuple[str, ...] = ()
    """Added to the engine's own command line, as they are."""
    variables: dict[str, str] = {}
    """Of the server's environment."""
    model_file: str | None = None
    context_tokens: Count | None = None
    slots: Count | None = None
    threads: Count | None = None
    url: str | None = None
    served_model: str | None = None
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself is written nowhere."""
    ready_timeout_s: Positive = 60.0

    @model_validator(mode="after")
    def _runtime_is_whole(self) -> Self:
        if (self.runtime == "container") != (self.image is not None):
            raise ValueError("image belongs to runtime: container, which needs it, and to no other")
        if self.runtime == "path" and self.executable is None:
            raise ValueError("runtime: path needs executable")
        if self.runtime == "venv" and self.executable is not None:
            raise ValueError("executable belongs to runtime: path or container")
        if self.runtime == "venv" and self.ssh_host is not None:
            raise ValueError(
                "ssh_host needs runtime: path or container: environments of runtime: venv lie on this machine"
            )
        return self


class Stack(Spec):
    kind: Literal["stack"]
    name: Name
    title: str
    engine: Literal[
        "vllm",
        "triton-trtllm",
        "triton-onnx",
        "triton-ctranslate2",
        "openai",
        "transformers",
        "llamacpp",
        "emulator",
        "attach",
    ]
    model: ModelShape | None = None
    """None where the shape is not public (an API): no roofline."""
    hardware: Hardware | None = None
    """None for an API or for the CPU of this machine."""
    tensor_parallel: Count = 1
    replicas: Count = 1
    protocol: Protocol = "openai-chat"
    price: Price
    claims: dict[str, Claim] = {}
    """Per scenario name."""
    quality: dict[str, str] = {}
    """Per scenario: a word of the quality scale where no claim states one (variants)."""
    launch: Launch = Launch()
    emulation: Emulation | None = None
    reduction: dict[str, Reduction] = {}
    templates: dict[str, str] = {}
    """Per scenario: a stem of ``workloads/templates`` in place of the scenario's own, for a model that wants its input
    in another form, such as a bare sentence."""
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _parallelism_fits(self) -> Self:
        if self.hardware is not None and self.tensor_parallel > self.hardware.count:
            raise ValueError(
                f"tensor_parallel {self.tensor_parallel} needs as many GPUs, hardware.count is {self.hardware.count}"
            )
        return self

    @property
    def gpu_count(self) -> int:
        """GPUs of the whole stack, over all replicas."""
        return 0 if self.hardware is None else self.hardware.count * self.replicas

    @property
    def is_api(self) -> bool:
        return self.price.kind == "tokens"

    def quality_word(self, scenario: str) -> str | None:
        claim = self.claims.get(scenario)
        return claim.quality if claim is not None and claim.quality else self.quality.get(scenario)


class Profile(Spec):
    kind: Literal["profile"]
    name: Literal["quick", "full"]
    title: str
    timing: dict[str, Timing]
    """Per scenario name; ``default`` for the rest."""
    looks: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(max_length=6)] = ()
    """Shares of the judged time at which FAIL may end a run; fixed beforehand."""

    def timing_for(self, scenario: str) -> Timing:
        return self.timing.get(scenario) or self.timing["default"]

    @model_validator(mode="after")
    def _has_default(self) -> Self:
        if "default" not in self.timing:
            raise ValueError("timing needs an entry 'default'")
        return self


SPECS: dict[str, type[Spec]] = {
    "scenario": Scenario,
    "stack": Stack,
    "hardware": HardwareFile,
    "profile": Profile,
    "experiment": Experiment,
}
"""``kind:`` of a YAML document to its model."""
