"""Switch off the progress bars and the warnings of diffusers and transformers.

Called by the command line and by the functions of the package that show progress of their own.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


def disable_progress_bars() -> None:
    """Disable the progress bars of both libraries, which this imports."""
    for logging in _loggers():
        logging.disable_progress_bar()


@contextmanager
def quiet_libraries() -> Generator[None]:
    """Return a context in which both libraries, which this imports, show neither bars nor warnings.

    They warn about what a user of a run cannot act on, such as a text encoder without LoRA layers.
    """
    before = [(logging, logging.get_verbosity(), logging.is_progress_bar_enabled()) for logging in _loggers()]
    for logging, _, _ in before:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
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
