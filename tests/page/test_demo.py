"""The command `fastvgan demo` before it serves: bad input is one sentence, and nothing is left behind."""

import contextlib
import http.client
import importlib.metadata
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile

import pytest
from commands import ROOT, call, start

from fastvgan.machine import optional
from fastvgan.page import server


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith(("GRADIO_", "NO_PROXY", "no_proxy"))]:
            environment.setenv(name, os.environ[name])  # restored, should the command change it
        yield tmp_path
    make_nothing_left(tmp_path)


def make_nothing_left(place):
    assert not list((place / "tmp").iterdir())


def demo(*arguments):
    status, out, err = call("fastvgan.demo", [*arguments, "--no-browser", "--device", "cpu"])
    assert (status, out) == (2, "") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "0"], "error: --port 0: must be at least 1"),
        (["--port", "70000"], "error: --port 70000: must be at most 65535"),
        (["--nonsense"], "error: unknown flag --nonsense"),
        (["--run", "empty"], "error: empty holds no generator"),
    ],
)
def test_bad_input_is_one_sentence(place, arguments, sentence):
    (place / "empty").mkdir()
    assert demo(*arguments).startswith(sentence)


def test_a_taken_port_is_refused_at_once(place):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        error = demo("--port", port, "--run", "no such run")
    assert error == (
        f"error: cannot listen on 127.0.0.1 at port {port} (Address already in use); pass another --port or --host\n"
    )


def test_an_address_of_another_machine_is_refused(place):
    assert demo("--host", "192.0.2.1").startswith("error: cannot listen on 192.0.2.1 (Cannot assign requested address)")


@pytest.mark.slow
@pytest.mark.parametrize(("host", "in_url"), [("127.0.0.9", "127.0.0.9"), ("::1", "[::1]")])
def test_other_loopback_addresses_are_served_too(place, monkeypatch, host, in_url):
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("gradio is not installed (pip install 'fastvgan[test]')")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        try:
            free.bind((host, 0))
        except OSError as error:
            pytest.skip(f"this machine does not have {host}: {error}")
        port = free.getsockname()[1]
    monkeypatch.setenv("TMPDIR", str(place / "tmp"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing answers there
    flags = ("--run", "digits", "--port", port, "--no-browser", "--device", "cpu")
    process = start("fastvgan.demo", "--host", host, *flags, cwd=place)
    try:
        line = process.stdout.readline()
        assert line == f"the page is at http://{in_url}:{port}/; Ctrl-C stops it\n", line + process.stdout.read()
        with contextlib.closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
            connection.request("GET", "/", headers={"Host": f"{in_url}:{port}"})
            assert connection.getresponse().status == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


@pytest.mark.parametrize("version", [None, "5.49.1"])
def test_a_missing_or_old_gradio_is_one_sentence_with_the_extra(place, monkeypatch, version):
    monkeypatch.setattr(optional, "is_installed", lambda name: name != "gradio" or version is not None)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    what = "gradio" if version is None else "gradio 6 or newer, and 5.49.1 is installed"
    assert demo() == f'error: the page needs the package {what}: pip install "fastvgan[demo]"\n'


@pytest.mark.parametrize(
    ("host", "is_private"),
    [("127.0.0.1", True), ("127.0.0.9", True), ("localhost", True), ("::1", True), ("[::1]", True),
     ("0.0.0.0", False), ("::", False), ("192.168.1.7", False), ("example.com", False)],
)  # fmt: skip
def test_a_host_that_others_reach_is_announced(capsys, host, is_private):
    server.announce("http://x/", host)
    out, err = capsys.readouterr()
    assert out == "the page is at http://x/; Ctrl-C stops it\n"
    assert (f"warning: the page listens on {host}" in err) is not is_private


def test_asking_for_help_imports_neither_torch_nor_gradio():
    program = "import sys, fastvgan.demo\nprint(*sorted({'torch', 'gradio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
