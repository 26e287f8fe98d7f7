"""Upload the folder of an adapter to the Hugging Face Hub."""

from pathlib import Path
from typing import cast

from b2diffurl.errors import UserError
from b2diffurl.models.adapter_files import DIFFUSERS_FILE


def check_push(repo_id: str) -> None:
    """Refuse an upload that cannot work: an invalid name of a repository, or no token; no request is sent.

    Raises:
        UserError: the name is invalid, or neither the environment nor `hf auth login` gives a token.
    """
    import huggingface_hub

    try:
        huggingface_hub.utils.validate_repo_id(repo_id)
    except huggingface_hub.errors.HFValidationError as error:
        raise UserError(f"repo_id is {repo_id!r}; give user/name in letters, digits, '-', '_' and '.'.") from error
    if huggingface_hub.get_token() is None:
        raise UserError(
            f"push_to_hub is {repo_id!r} but there is no token; log in with `hf auth login` or set HF_TOKEN to a token "
            "with write access."
        )


def push_to_hub(directory: Path, *, repo_id: str, private: bool = False, token: str | None = None) -> str:
    """Upload the `lora` folder of a run, including its model card; an existing repository gets a new commit.

    Args:
        directory: folder of the adapter.
        repo_id: repository such as "me/my-adapter"; created if missing.
        private: whether a newly created repository is private.
        token: access token; by default from the environment (HF_TOKEN) or `hf auth login`.

    Returns:
        The URL of the repository.

    Raises:
        UserError: the folder has no adapter, the name is invalid, or access or the connection failed.
    """
    if not (directory / DIFFUSERS_FILE).is_file():
        raise UserError(f"directory {directory} has no {DIFFUSERS_FILE}; give the lora folder of a run.")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The base error of the HTTP library behind huggingface_hub, which differs between its versions.
    no_connection = cast(type[Exception], HfHubHTTPError.__bases__[0])
    api = HfApi(token=token)
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=directory, commit_message="Adapter trained with b2diffurl")
    except HFValidationError as error:
        raise UserError(f"repo_id is {repo_id!r}; give user/name in letters, digits, '-', '_' and '.'.") from error
    except (OSError, no_connection) as error:
        reason = str(error).strip().splitlines()
        raise UserError(
            f"repo_id {repo_id!r} could not be written ({reason[0] if reason else type(error).__name__}); "
            "log in with `hf auth login` or set HF_TOKEN to a token with write access."
        ) from error
    return str(url)
