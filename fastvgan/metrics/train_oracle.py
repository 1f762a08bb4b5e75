"""Train the oracle that reads digits: `python -m fastvgan.metrics.train_oracle [--out FILE]`."""

from pathlib import Path

from fastvgan.command_line import parse, run_command
from fastvgan.files.atomic import check_writable, whole
from fastvgan.settings import Count, Seed, Settings

_TEST_CLIPS = 4800


class Arguments(Settings):
    """Train the oracle that reads digits.

    Training uses real clips of the training writers only. The accuracy printed at the end is measured on the other
    writers, and no setting was chosen by it. The same seed results in the same weights on the same machine.
    """

    out: Path | None = None
    """File to write. Default: the file that `fastvgan.evaluate` reads."""
    steps: Count = 3000
    """Training steps."""
    seed: Seed = 0
    """Seed of the weights, the clips and the distortions."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command with these arguments, by default those of the command line."""
    parsed = parse(Arguments, "python -m fastvgan.metrics.train_oracle", arguments)
    if parsed.out is not None:
        check_writable(parsed.out)

    from fastvgan.files.tensor_file import save_tensors
    from fastvgan.metrics.oracle import ORACLE
    from fastvgan.metrics.oracle.training import accuracy, train

    oracle = train(parsed.steps, parsed.seed).half().float()  # the accuracy is that of the stored precision
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
