"""The configuration of a run: model, data and training, with presets; read from a file, a preset or flags."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from fastvgan.errors import UserError
from fastvgan.models.config import ModelConfig
from fastvgan.runs.penalty_rules import check_penalties
from fastvgan.settings import Count, Seed, Settings

AugmentName = Literal["color", "translation", "cutout", "none"]
Decay = Annotated[float, Field(ge=0, lt=1)]
_WITH_SIGNS = ("nonsaturating", "minimax", "hinge")  # objectives in which D's logits are above 0 for real clips


class DataConfig(Settings):
    """The data."""

    data: str = "digits"
    """`digits` (captioned moving digits, included in the package), `stacked-digits` (three digits in the three colour
    channels of a still clip, to count the modes that a GAN covers), output of `python -m fastvgan.prepare` (its folder,
    or a path or URL of its manifest.jsonl), or any folder of clips, which is scanned at every start."""
    decoder: Literal["auto", "pyav", "dali", "shards", "digits"] = "auto"
    """Decoder: `auto` uses shards if the data is decoded already, DALI on a GPU, and PyAV otherwise."""
    stride: int = Field(1, ge=1, le=10000)
    """Distance of the frames used from a file; 1 uses every frame."""
    max_stride: int | None = Field(None, ge=1, le=10000)
    """Draw the stride of each clip from --stride to this."""
    crop: Literal["random", "center"] = "random"
    """Where clips are cropped out of larger frames."""
    mirror: bool = False
    """Show every other clip, by chance, left to right; refused for the digits and where captions speak of left or
    right."""
    reverse: bool = False
    """Show every other clip, by chance, backwards in time; refused where captions speak of a direction, such as up, out
    or opening."""
    test_share: float = Field(0.0, ge=0, lt=1)
    """Share of the frames of each clip, at its end, that are kept for tests (not for the digits, which have test clips
    already). A clip needs --frames in both parts, otherwise it is used for training as a whole."""
    share: float = Field(1.0, gt=0, le=1)
    """Share of the clips to train on; of the digits, share of the handwritten pictures. A larger share includes the
    clips of a smaller one."""
    share_seed: Seed = 0
    """Chooses the clips of --share."""
    max_bad: float = Field(0.5, ge=0, le=1)
    """Data are refused if more than this share of the files is unreadable, or has changed since `prepare`."""
    tolerant: bool = False
    """Use damaged files of a folder, too: as far as FFmpeg can repair or decode them."""
    root: str | None = None
    """The folder of a manifest's files if it differs from the manifest's own; prepare prints it."""
    follow_links: bool = False
    """Follow symbolic links in the folder of clips, even to files outside of it."""
    workers: int = Field(1, ge=0, le=4096)
    """Processes (threads of DALI) that decode beside the trainer; 0 decodes in the trainer itself."""
    captions: Literal["fixed", "free"] = "fixed"
    """Captions of the digits: `fixed`, or in `free` language, one of 192 phrasings per clip; --text-model sequence
    suits the latter."""
    hold_out: float = Field(0.0, ge=0, lt=1)
    """Share of the digits' captions (combinations of digit, colour and motion) kept out of training for tests
    of generalisation; every single word stays."""
    hold_out_seed: Seed = 0
    """Chooses the captions that --hold-out keeps out."""

    @model_validator(mode="after")
    def _check_strides(self) -> Self:
        if self.max_stride is not None and self.max_stride < self.stride:
            raise UserError(f"--max-stride {self.max_stride} is below --stride {self.stride}")
        return self


class TrainingConfig(Settings):
    """How the two networks are trained."""

    objective: Literal["nonsaturating", "minimax", "hinge", "wgan-gp", "relativistic"] = "nonsaturating"
    """The game the two networks play: binary cross entropy (`minimax` is its textbook form), hinge losses, a critic
    (`wgan-gp`, with --gp), or pairs of real and generated clips (`relativistic`, with --r1, --r2 and --r1-every 1)."""
    matching_aware: bool = True
    """Show D real clips under a wrong condition, which it has to reject (models with a condition only).
    --no-matching-aware needs --contrast 0; the presets for digits set --contrast 3."""
    wrong_conditions: int = Field(1, ge=1, le=4096)
    """Wrong captions or classes per real clip; more of them cost little, because D encodes a clip once. There is one
    wrong first frame, which D encodes with the clip."""
    contrast: float = Field(0.0, ge=0)
    """Weight of the contrastive loss, in which D on real clips, and G, must prefer a clip's own condition to wrong ones
    (0: none)."""
    r1: float = Field(0.0, ge=0)
    """Weight of the gradient penalty on real clips (R1; 0: none)."""
    r1_every: Count = 16
    """Steps between gradient penalties; the penalty's weight is multiplied by this. R2 uses it, too."""
    r2: float = Field(0.0, ge=0)
    """Weight of the gradient penalty on generated clips (R2; 0: none)."""
    gp: float = Field(0.0, ge=0)
    """Weight of the penalty that pulls gradients' norms to 1 between real and generated clips, in every step (0: none);
    published with `wgan-gp`, at 10."""
    penalty: Literal["exact", "finite-difference"] = "exact"
    """How R1 and R2 are computed: by second derivatives, or from D's response to a little noise."""
    penalty_scale: float | None = Field(None, ge=1e-6)
    """Standard deviation of that noise, in pixels from -1 to 1 (finite-difference only), at least 1e-6, since less is
    lost in float32's rounding. Default: 0.01."""
    r1_final: float | None = Field(None, ge=0)
    """Weight of R1 after the burn-in, during which it changes along a cosine. Default: --r1."""
    r2_final: float | None = Field(None, ge=0)
    """Weight of R2 after the burn-in. Default: --r2."""
    beta2_final: Decay | None = None
    """Adam's second decay rate after the burn-in, for both networks. Default: that of --betas."""
    burn_in: float = Field(0.0, ge=0, le=1)
    """First share of the steps, during which --r1-final, --r2-final and --beta2-final are reached."""
    diversity: float = Field(0.0, ge=0)
    """Weight of the term that makes clips of one condition differ, and with --warp their pictures too (0: none; models
    with a condition only)."""
    diversity_rise: float = Field(0.0, ge=0, le=1)
    """The weights of --diversity and --feature-diversity rise linearly from zero over this first share of the steps."""
    diversity_target: float = Field(0.1, gt=0)
    """Difference between two clips above which --diversity rewards no more: mean difference of their pixels (-1 to 1)
    divided by that of their noise. The pictures of --warp have half this target."""
    feature_diversity: float = Field(0.0, ge=0)
    """Weight of the term that makes clips of one condition differ in D's features as much as real clips with one
    condition do (0: none; models with a condition only). Features do not depend on positions, so this keeps G from
    always choosing one value for what the condition leaves open, such as a colour."""
    first_frame: float = Field(0.0, ge=0)
    """Weight of the mean squared error between a clip's first frame and the given one (0: none; models with a first
    frame as condition only)."""
    coherence: float = Field(0.0, ge=0)
    """Weight of the term that makes neighbouring frames of generated clips differ as much as those of real clips, so
    that neither flicker nor standing still pays (0: none)."""
    augment: tuple[AugmentName, ...] = ()
    """Random changes of every clip that D sees, real or generated, the same in all of its frames, against overfitting
    to few clips (DiffAugment): color, translation, cutout, several of these, or none. Without --preset and --config,
    all three are used on fewer than 2,000 clips of --data without captions or classes."""
    augment_strength: float = Field(1.0, ge=0, le=1)
    """Probability with which a clip gets each change of --augment; with --augment-target, the largest one."""
    augment_target: float | None = Field(None, gt=-1, lt=1)
    """Adapt the probability of --augment, from 0, so that the mean sign of D's logits on real clips stays near this;
    0.6 is usual. Default: a fixed probability."""
    augment_clips: Count = 100_000
    """Real clips in which --augment-target moves the probability from 0 to 1, at most."""
    redraw: float = Field(0.0, ge=0)
    """Weight of the share of pixels that G draws new instead of moving them (0: none; with --warp only)."""
    steps: Count | None = None
    """Steps to train; each updates D and G once. Without it, --epochs decides."""
    epochs: Count = 100
    """Passes over the data, instead of --steps; of the digits, as many clips as there are handwritten pictures."""
    batch_size: int = Field(64, ge=2, le=2**20)
    """Clips per step, over all processes."""
    accumulate: int = Field(1, ge=1, le=2**20)
    """Parts into which each process splits its share of a batch; it processes one at a time, which saves memory."""
    lr_generator: float = Field(2e-4, gt=0)
    """Adam's learning rate for G."""
    lr_discriminator: float = Field(2e-4, gt=0)
    """Adam's learning rate for D."""
    lr_decay: float = Field(0.0, ge=0, le=1)
    """Both learning rates fall linearly to zero over this last share of the steps."""
    betas: tuple[Decay, Decay] = (0.5, 0.999)
    """Adam's decay rates, for both networks."""
    ema: float = Field(0.99, ge=0, lt=1)
    """Decay per step of the exponential moving average of G's weights, which samples, scores and exports use."""
    precision: Literal["auto", "bf16", "fp16", "tf32", "fp32"] = "auto"
    """Precision of convolutions and matrix products; `auto` is bf16 on a device with instructions for it, else fp32."""
    cuda_graphs: Literal["auto", "on", "off"] = "auto"
    """Capture each update in a CUDA graph and replay it: `auto` if possible, `on` ends the run if it is not."""
    deterministic: bool = False
    """Use PyTorch's deterministic operations, which are slower; run two early steps twice and log the tensors that are
    not bitwise reproducible."""
    max_skipped: Count = 10
    """Consecutive steps with a loss or gradient that is not finite, after which the run returns to its last
    checkpoint."""
    max_setbacks: int = Field(3, ge=0, le=1000)
    """Times that the run returns to its last checkpoint, each with half the learning rates, before it ends."""
    watchdog: float = Field(600, ge=0, le=1e6)
    """Seconds without a step, or without a batch, after which the run ends with status 75 (0: never)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on."""
    seed: Seed = 0
    """Seed of all random numbers."""
    sample_every: Count = 200
    """Steps between grids of samples."""
    checkpoint_every: Count = 200
    """Steps between checkpoints."""
    evaluate_every: int = Field(0, ge=0, le=10**12)
    """Steps between evaluations of the averaged weights; 0: at every checkpoint. A new best score is saved in a
    checkpoint whatever its step; the last step is always evaluated."""
    evaluate_clips: int = Field(240, ge=16, le=10**6)
    """Generated clips per evaluation, compared with as many real ones; only `coarse_frechet`, of data other than the
    digits, always compares 512 with 128."""
    keep: int = Field(2, ge=1, le=10**6)
    """Number of newest checkpoints to keep, in addition to the best one."""
    log_every: Count = 10
    """Steps between lines of metrics."""
    profile: int = Field(0, ge=0, le=10000)
    """Steps to record by torch.profiler, into the run folder's profile/ (0: none)."""
    wandb: str | None = None
    """Weights & Biases project that also receives the metrics."""

    def count_steps(self, size: int) -> int:
        """Return the number of steps of a run on `size` clips."""
        return self.steps or max(1, self.epochs * size // self.batch_size)

    def count_clips(self, size: int) -> int:
        """Return the number of clips drawn in those steps."""
        return self.count_steps(size) * self.batch_size

    @property
    def difference_scale(self) -> float:
        """The standard deviation of the noise of finite differences."""
        return 0.01 if self.penalty_scale is None else self.penalty_scale

    @model_validator(mode="after")
    def _check_penalties(self) -> Self:
        check_penalties(self)
        return self

    @field_validator("augment")
    @classmethod
    def _augment_each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(sorted(name for name in value if name != "none"))
        if len(set(names)) < len(names) or (names and "none" in value):
            raise ValueError("names each change once, or none alone")
        return names

    @model_validator(mode="after")
    def _check_augment(self) -> Self:
        if self.augment_target is None:
            return self
        if not self.augment:
            raise UserError("--augment-target needs changes to adapt; add --augment color translation cutout")
        if self.objective not in _WITH_SIGNS:
            raise UserError(
                f"--augment-target does not apply to --objective {self.objective}, whose logits have no sign that says "
                "real; use --augment-strength"
            )
        return self

    @model_validator(mode="after")
    def _check_contrast(self) -> Self:
        if self.contrast and not self.matching_aware:
            raise UserError(
                "--contrast needs wrong conditions to compare with; use --contrast 0, or leave --no-matching-aware out"
            )
        return self


class RunConfig(Settings):
    """Everything that defines a run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    def to_yaml(self) -> str:
        """Return the configuration as YAML for `read_config`."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


# Settings that may change when a run is resumed: where and how long it trains, and its outputs.
_FREE = {"steps", "epochs", "device", "sample_every", "checkpoint_every", "keep", "log_every", "workers"}
_FREE |= {
    "max_bad",
    "root",
    "follow_links",
    "cuda_graphs",
    "max_skipped",
    "max_setbacks",
    "watchdog",
    "profile",
    "wandb",
    "evaluate_every",
    "evaluate_clips",
    "accumulate",  # the batch stays; `describe_change` says what does not
    "text_encoder",  # its fingerprint is compared
}
# Settings that follow from the data, whose changes the fingerprint detects.
_OF_DATA = {"data", "vocabulary", "caption_length", "class_names", "text_width", "text_fingerprint"}


_MOST_TEXT = 2**24  # characters of a configuration, which may include a large vocabulary


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice, of which PyYAML takes the last one, and keys that are no texts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():  # the base class refuses others
            shown = f"key {key.value:.60}" if isinstance(key, yaml.ScalarNode) else "list or mapping that is a key"
            where = f"line {key.start_mark.line + 1}: the {shown}"
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise yaml.YAMLError(f"{where} is no name of a setting; write one, such as batch_size")
            if key.value in seen:
                raise yaml.YAMLError(f"{where} occurs twice; keep one of them")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_config(path: Path) -> RunConfig:
    """Read a configuration from a YAML file as written by --print-config or to a run folder's config.yaml.

    Raises:
        UserError: the file is missing, is not YAML, or holds a key or a value that is not allowed.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST_TEXT + 1)
        if len(text) > _MOST_TEXT:
            raise UserError(f"{path} has more than {_MOST_TEXT} characters and is no configuration of a run")
        values = yaml.load(text, _Loader)  # a safe one
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # PyYAML lets the ValueError of a wrong date through
        raise UserError(f"{path} is not a YAML file of settings: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings; `--print-config` prints a complete file")
    try:
        return RunConfig.model_validate(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def find_differences(old: RunConfig, new: RunConfig) -> list[str]:
    """List settings that differ and may not change when a run is resumed: "model.height is 16 there and 32 here".

    The data, with their words and classes, are compared by `fastvgan.training.run.resume` instead.
    """
    may_differ = _FREE | _OF_DATA | (set() if old.model.condition or new.model.condition else {"matching_aware"})
    found = []
    for part in ("model", "data", "training"):
        before, after = getattr(old, part).model_dump(), getattr(new, part).model_dump()
        for key in before:
            if key not in may_differ and before[key] != after[key]:
                found.append(f"{part}.{key} is {_shorten(before[key])} there and {_shorten(after[key])} here")
    return found


def describe_change(old: RunConfig, new: RunConfig) -> tuple[str, ...]:
    """Describe a change that a resumed run may make but that changes its results, in one sentence or none."""
    before, after = old.training.accumulate, new.training.accumulate
    if before == after:
        return ()
    return (
        f"--accumulate is {after} instead of {before}: the clips stay the same, but batch norms and --coherence see "
        f"parts of {new.training.batch_size // after} of them",
    )


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
