"""Switch off the progress bars and the warnings of diffusers and transformers.

Called by the command line and by the functions of the package that show progress of their own.
"""

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


def disable_progress_bars() -> None:
    """Disable the progress bars of both libraries, which this imports, and a warning that is diffusers' own."""
    for logging in _loggers():
        logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="The `local_dir_use_symlinks` argument", category=UserWarning)


@contextmanager
def quiet_libraries() -> Generator[None]:
    """Return a context in which both libraries, which this imports, show neither bars nor warnings.

    They warn about what a user of a run cannot act on, such as a text encoder without LoRA layers.
    """
    before = [(logging, logging.get_verbosity(), logging.is_progress_bar_enabled()) for logging in _loggers()]
    for logging, _, _ in before:
        logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            disable_progress_bars()
            yield
    finally:
        for logging, verbosity, has_bars in before:
            logging.set_verbosity(verbosity)
            if has_bars:
                logging.enable_progress_bar()


def _loggers() -> tuple[Any, Any]:
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    return diffusers_logging, transformers_logging
