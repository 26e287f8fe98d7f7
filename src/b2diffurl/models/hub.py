"""Uploads an adapter's folder to the Hugging Face hub."""

from pathlib import Path
from typing import cast

from b2diffurl.errors import UserError

_ADAPTER_FILE = "pytorch_lora_weights.safetensors"


def push_to_hub(directory: Path, *, repo_id: str, private: bool = False, token: str | None = None) -> str:
    """Upload the `lora` folder of a run, its model card included; a repository that is there gets a new commit.

    Args:
        directory: the folder.
        repo_id: such as "me/my-adapter"; made if it is not there.
        private: whether a repository that is made now is private.
        token: of the hub; by default that of the environment (HF_TOKEN) or of `hf auth login`.

    Returns:
        The repository's address.

    Raises:
        UserError: no adapter in the folder, no valid name, no access, or no connection.
    """
    if not (directory / _ADAPTER_FILE).is_file():
        raise UserError(f"directory {directory} has no {_ADAPTER_FILE}; give the lora folder of a run.")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The base class of the HTTP library that this version of the hub's client uses.
    no_connection = cast(type[Exception], HfHubHTTPError.__bases__[0])
    api = HfApi(token=token)
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=directory, commit_message="Adapter trained with b2diffurl")
    except HFValidationError as error:
        raise UserError(f"repo_id is {repo_id!r}; give user/name in letters, digits, '-', '_' and '.'.") from error
    except (OSError, no_connection) as error:
        told = str(error).strip().splitlines()
        raise UserError(
            f"repo_id {repo_id!r} could not be written ({told[0] if told else type(error).__name__}); "
            "log in with `hf auth login` or set HF_TOKEN to a token that may write there."
        ) from error
    return str(url)
