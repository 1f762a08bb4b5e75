"""Downloads from the Hugging Face Hub and uploads to it; huggingface_hub is imported only here, when it is needed."""

from pathlib import Path
from typing import Any

from fastvgan.errors import UserError
from fastvgan.generation.files import CONFIG, WEIGHTS
from fastvgan.machine.optional import require


def download(name: str, **options: Any) -> Path:
    """Download a generator, unless it is in the Hub's local cache; return the folder with its files.

    Args:
        name: "user/model".
        options: revision, token, cache_dir and local_files_only of `huggingface_hub.hf_hub_download`.

    Raises:
        UserError: huggingface_hub is not installed, the Hub cannot be reached, or the model or a file of it is missing.
    """
    hub = import_hub(f"{name} is not a file or folder; to download it from the Hugging Face Hub, fastvgan")
    try:
        hub.hf_hub_download(name, CONFIG, **options)
        return Path(hub.hf_hub_download(name, WEIGHTS, **options)).parent
    except _failures(hub) as error:
        raise UserError(
            f"cannot download {name} from the Hugging Face Hub ({_reason(error)}); check the name, the network and, for"
            " a private model, the token, or pass a folder"
        ) from error


def upload(folder: Path, name: str, private: bool | None, message: str, token: str | None) -> str:
    """Upload a folder to a model repository on the Hub, which is created if it does not exist; return its address.

    Raises:
        UserError: huggingface_hub is not installed, or the Hub refuses the upload.
    """
    hub = import_hub("push_to_hub")
    try:
        api = hub.HfApi(token=token)
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=address.repo_id, folder_path=folder, commit_message=message)
        return str(address)
    except _failures(hub) as error:
        raise UserError(
            f"cannot upload to {name} on the Hugging Face Hub ({_reason(error)}); check the name, the network and the "
            "token (`hf auth login` stores one)"
        ) from error


def import_hub(what: str) -> Any:
    """Import huggingface_hub.

    Raises:
        UserError: it is not installed.
    """
    return require("huggingface_hub", "hub", what)


def _failures(hub: Any) -> tuple[type[Exception], ...]:
    # ValueError: a malformed name. The HTTP library's own errors are OSErrors for requests, but not for httpx, which
    # newer versions use.
    failures: list[type[Exception]] = [OSError, ValueError, hub.errors.EntryNotFoundError]
    try:
        import httpx
    except ModuleNotFoundError:
        return tuple(failures)
    return (*failures, httpx.HTTPError)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.') if lines else 'no reason given'}"[:300]
