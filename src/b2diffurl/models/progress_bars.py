"""Switch off the progress bars of diffusers and transformers; called by the command line only."""


def disable_progress_bars() -> None:
    """Disable the progress bars of both libraries, which this imports."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
