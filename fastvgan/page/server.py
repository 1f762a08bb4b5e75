"""The server of the page: one process, its own files only, no requests to elsewhere."""

import ipaddress
import os
import signal
import socket
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from fastvgan.errors import UserError

if TYPE_CHECKING:
    import gradio as gr

    from fastvgan.page.files import Files
    from fastvgan.page.live import LiveRuns
    from fastvgan.page.making import Making
    from fastvgan.page.models import Models

_FIRST_PORT, _TRIED_PORTS = 7860, 100
_MOST_SESSIONS = 200
_MOST_THREADS = 8


class Address(NamedTuple):
    """Where the page listens.

    Attributes:
        host: name or address, an IPv6 address without brackets.
        port: None for the first free one from 7860.
    """

    host: str
    port: int | None


def serve(named: str | None, device: str, address: Address, opens_browser: bool) -> None:
    """Serve the page until the process is interrupted.

    Args:
        named: model to show first; see `fastvgan.page.models.Models`.
        device: "auto", "cpu" or "cuda".
        address: where to listen.
        opens_browser: whether to open the page in a browser.

    Raises:
        UserError: the model cannot be loaded, or the address is not available.
    """
    _check_address(address)
    signal.signal(signal.SIGTERM, _stop)
    with tempfile.TemporaryDirectory(prefix="fastvgan-demo-", ignore_cleanup_errors=True) as folder:
        _shut_off(Path(folder), address.host)

        from fastvgan.page.files import Files
        from fastvgan.page.live import LiveRuns
        from fastvgan.page.making import Making
        from fastvgan.page.models import Models

        files, models = Files(Path(folder)), Models(named, device)
        models.open(models.names()[0])  # before Gradio is imported, which takes seconds
        # Other folders than a run's hold a generator only.
        runs = LiveRuns(Path(named) if named is not None and (Path(named) / "config.yaml").is_file() else None)
        page = _launch(models, Making(models, files), runs, files, address)
        stopped = threading.Event()
        threading.Thread(target=files.sweep_forever, args=(stopped,), daemon=True).start()
        try:
            url = f"http://{_in_url(address.host)}:{page.server_port}/"
            announce(url, address.host)
            if opens_browser:
                _open_browser(url)
            threading.Event().wait()
        finally:
            stopped.set()
            page.close(verbose=False)


def announce(url: str, host: str) -> None:
    """Print where the page is, and a warning if others can reach it."""
    print(f"the page is at {url}; Ctrl-C stops it", flush=True)
    if not is_loopback(host):
        print(
            f"warning: the page listens on {host}: everyone who reaches this machine can use it, without a password; "
            "--host 127.0.0.1, the default, is for this machine only",
            file=sys.stderr,
            flush=True,
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address to listen on."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _check_address(address: Address) -> None:
    """Check that the address is free, before anything that takes seconds."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address.host, address.port or 0))
    except OSError as error:
        where = f"{address.host} at port {address.port}" if address.port else address.host
        reason = error.strerror or error
        raise UserError(f"cannot listen on {where} ({reason}); pass another --port or --host") from error


def _launch(models: "Models", making: "Making", runs: "LiveRuns", files: "Files", address: Address) -> "gr.Blocks":
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from fastvgan.page import layout
    from fastvgan.page.guard import MOST_UPLOAD, Guard

    host = _with_brackets(address.host)
    guards = [Middleware(Guard, files=files)]
    if is_loopback(address.host):  # another site's name that resolves to this machine is refused
        allowed = ["localhost", "127.0.0.1", "[::1]", host]
        guards.insert(0, Middleware(TrustedHostMiddleware, allowed_hosts=allowed))
    page = layout.build(models, making, runs)
    try:
        page.launch(
            server_name=host,
            server_port=address.port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_threads=_MOST_THREADS,
            max_file_size=MOST_UPLOAD,
            state_session_capacity=_MOST_SESSIONS,
            enable_monitoring=False,
            run_history=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            num_workers=0,
            footer_links=[],
            theme=layout.theme(),
            css=layout.style(),
            app_kwargs={"middleware": guards},
        )
    except OSError as error:
        last = _FIRST_PORT + _TRIED_PORTS - 1
        ports = f"port {address.port}" if address.port else f"the ports {_FIRST_PORT} to {last}"
        raise UserError(f"cannot listen on {address.host} at {ports}; pass another --port or --host") from error
    return page


def _shut_off(folder: Path, host: str) -> None:
    """Set up Gradio, before it is imported: files in a private folder, and no requests to elsewhere."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]  # such as GRADIO_SHARE, GRADIO_ALLOWED_PATHS and GRADIO_ROOT_PATH
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # Gradio asks its own server whether it has started, for which no proxy is of use.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), f"localhost,127.0.0.1,::1,{host}")))


def _in_url(host: str) -> str:
    return "localhost" if host in ("0.0.0.0", "::") else _with_brackets(host)


def _with_brackets(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _open_browser(url: str) -> None:
    import webbrowser

    with suppress(webbrowser.Error):  # the address is printed, too
        webbrowser.open(url)


def _stop(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)
