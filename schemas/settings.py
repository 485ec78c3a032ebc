"""Settings: where and how a run runs, everything that changes no result and so is part of no fingerprint."""

from typing import Literal

from pydantic import Field, field_validator

from schemas.config import Config
from schemas.storage import DEFAULT_STORE


class Settings(Config):
    """Where one run reads and writes, and with which resources."""

    store: str = DEFAULT_STORE
    """The store: a folder or any fsspec URL."""
    source: str | tuple[str, ...] | None = None
    """The recordings: a folder or any fsspec URL, or a list of several, read recursively; `miniature` makes its own
    where none is given."""
    requests: str | None = None
    """What to generate: a CSV, JSON, JSONL, `.xlsx` or Parquet file or URL; None takes the preset's own requests."""
    all_tables: bool = False
    """Whether a run of the whole catalog also makes the tables of conditions that the recipe's model does not read
    (`chroma`, `clap`), to be queried. Asking for their stages by name always does."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where tensors live; `auto` takes CUDA where there is one."""
    workers: int = Field(default=0, ge=0)
    """Processes that decode audio. 0 takes one for each core that this process may use; 1 decodes in the run's own
    process. For a model on the CPU only a quarter as many read ahead; if that is none, reading and the model take
    turns."""
    threads: int | None = Field(default=None, ge=1)
    """Threads that compute on the CPU, divided among the shards or the training processes at work at once. None takes
    the cores that this process may use (its affinity, a container's quota), or what OMP_NUM_THREADS says of each."""
    processes: int | None = Field(default=None, ge=1)
    """Processes that train a language model together on this machine, each with its own GPU or a share of the cores;
    None takes one for each GPU, or one on a CPU. Their number, like the device, changes how sums are rounded."""
    parallel: Literal["auto", "data", "fully_sharded"] = "auto"
    """How the processes of one training share it: each has the whole model and works on a part of the data
    (arXiv:2006.15704), or each has only its part of all weights, gradients and moments as well (PyTorch's
    `fully_shard`, arXiv:2304.11277), which takes longer and fits larger models. `auto` shards what does not fit
    whole."""
    task_runner: Literal["threads", "dask", "ray"] = "threads"
    """What runs the shards of a stage: threads of the run, or the workers of a Dask or Ray cluster, here or elsewhere.
    Where workers have GPUs (for a cluster elsewhere: with `device` set to `cuda`), stages that run a model go only to
    those that offer one (Dask: `--resources GPU=1`)."""
    concurrency: int = Field(default=1, ge=1)
    """Shards processed at the same time, which share the cores. One shard alone can use all cores, so more helps only
    on larger machines, and with networks so small that two threads are hardly faster than one."""
    dask_address: str | None = None
    """The scheduler of a running Dask cluster; None starts a local one."""
    ray_address: str | None = None
    """The address of a running Ray cluster (`ray://head:10001`, or `auto` on a machine of it); None starts a local
    one."""
    decode_at_once: int | None = Field(default=None, ge=1)
    """Most sequences that a language model decodes together; never more than 128 on CUDA, and on a CPU 32 for each
    core up to four (8 in all for long clips). Where memory is short they are fewer, and progress says how many."""
    cuda_graphs: bool = True
    """Whether a step of decoding on CUDA is captured and launched as one graph; without it each kernel is launched by
    itself, which takes longer and works where a capture does not."""
    max_refused: float = Field(default=0.5, ge=0, le=1)
    """Share of a stage's items above which refusals fail the stage."""
    accept_refused: float = Field(default=0, ge=0)
    """How many lines of a requests file may be refused while the others still replace the last order: a number of
    lines, or, below 1, a share. The clips that a refused line asked for before stay, marked stale."""
    drop_requests: bool = False
    """Whether a new requests file may drop clips of the last order: those of lines that are gone or changed, and takes
    beyond a smaller number."""
    on_upgrade: Literal["ask", "remake", "keep"] = "ask"
    """What a run does where a new release changed a stage, so that the results of that stage and of those after it
    would be made again. `ask` says what would be made and how long that takes, and waits for an answer if it is more
    than a minute; `remake` makes them again; `keep` keeps them and makes only new rows, with the new code."""
    on_failure: str | None = None
    """Who is notified when a run of the service fails or crashes: a Prefect block for notifications or webhooks, such
    as `slack-webhook/ops`, or the http(s) address of a webhook that is not secret. Secrets belong in a block."""
    cost_per_hour: float | None = Field(default=None, ge=0)
    """What an hour of this machine costs, in any currency; a run's summary then says what each stage cost."""
    offline: bool = False
    """Never ask the network for weights."""

    @field_validator("accept_refused")
    @classmethod
    def _is_number_or_share(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("expected a whole number of lines, or a share below 1")
        return value

    @property
    def sources(self) -> tuple[str, ...]:
        """Places of recordings; empty where none is given."""
        if self.source is None:
            return ()
        return (self.source,) if isinstance(self.source, str) else self.source
