"""Open a page in the browser that makes clips and watches runs: `fastvgan demo`."""

from typing import Literal

from pydantic import Field

from fastvgan.command_line import parse, run_command
from fastvgan.machine.optional import check_installed
from fastvgan.settings import Settings


class Arguments(Settings):
    """Open a page in the browser that makes clips from sentences, and shows training runs live. Needs the extra
    `demo`: pip install 'fastvgan[demo]'."""

    run: str | None = None
    """Model to show first: a run folder, an exported .safetensors file, digits, which comes with the package, or
    USER/MODEL of the Hugging Face Hub; by default the newest run under runs/ with a generator, or digits. The page
    offers all runs under runs/."""
    host: str = "127.0.0.1"
    """Address to listen on. The default is reached from this machine only; 0.0.0.0 is open to everyone who reaches this
    machine, without a password."""
    port: int | None = Field(None, ge=1, le=65535)
    """Port to listen on; by default the first free one from 7860."""
    browser: bool = True
    """Open the page in a browser; --no-browser only prints its address."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to make clips."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command; see `Arguments`."""
    parsed = parse(Arguments, "python -m fastvgan.demo", arguments)

    check_installed("gradio", "demo", "the page", oldest=6)

    from fastvgan.machine.device import pick_implementations
    from fastvgan.page.server import Address, serve

    pick_implementations()
    serve(parsed.run, parsed.device, Address(parsed.host.strip("[]"), parsed.port), parsed.browser)


if __name__ == "__main__":
    run_command(main)
