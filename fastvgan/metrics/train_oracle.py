"""Train the oracle that reads digits: `python -m fastvgan.metrics.train_oracle [--out FILE]`."""

from pathlib import Path

from fastvgan.command_line import parse, run_command
from fastvgan.files.atomic import check_writable, whole
from fastvgan.settings import Count, Seed, Settings

_TEST_CLIPS = 4800


class Arguments(Settings):
    """Train the oracle that reads digits.

    Only real clips of the training writers are seen; the accuracy printed at the end is on clips of the other writers,
    and nothing was chosen by it. The same seed gives the same weights on the same machine.
    """

    out: Path | None = None
    """File to write; by default the one that `fastvgan.evaluate` reads."""
    steps: Count = 3000
    """Steps to train."""
    seed: Seed = 0
    """Seed of the weights, the clips and the distortions."""


def main(arguments: list[str] | None = None) -> None:
    parsed = parse(Arguments, "python -m fastvgan.metrics.train_oracle", arguments)
    if parsed.out is not None:
        check_writable(parsed.out)

    from fastvgan.files.tensor_file import save_tensors
    from fastvgan.metrics.oracle import ORACLE
    from fastvgan.metrics.oracle_training import accuracy, train

    oracle = train(parsed.steps, parsed.seed).half().float()  # measured as it is stored
    clips, frames = accuracy(oracle, _TEST_CLIPS)
    metadata = {
        "command": f"python -m fastvgan.metrics.train_oracle --steps {parsed.steps} --seed {parsed.seed}",
        "accuracy": f"{clips:.2%} of clips and {frames:.2%} of frames of unseen writers",
    }
    tensors = {name: value for name, value in oracle.state_dict().items() if not name.endswith("num_batches_tracked")}
    out = parsed.out or ORACLE
    with whole(out) as temporary:
        save_tensors({name: value.half() for name, value in tensors.items()}, temporary, metadata)
    print(f"{out}: reads {metadata['accuracy']} ({_TEST_CLIPS} clips)")


if __name__ == "__main__":
    run_command(main)
