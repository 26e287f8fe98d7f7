"""Keep the libraries' own progress bars off the terminal; only the command line asks for it."""


def disable_progress_bars() -> None:
    """Leave the terminal to our own bars. Loads the libraries, which the next step does anyway."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
