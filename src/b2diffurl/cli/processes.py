"""`--num-processes`: a command in several processes of this machine, as torchrun would start them.

The agent of torchrun starts the ranks and watches them; this module decides how many, and brings back how they ended.
Every rank stores its error in a file, and the command prints that of the first one, once. Rank 0 writes to the terminal
itself.
"""

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from multiprocessing import parent_process, resource_tracker
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NoReturn
from uuid import uuid4

import psutil
import torch
from annotated_types import Ge
from rich.console import Console
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from b2diffurl.cli import outcome
from b2diffurl.cli.environment import prepare_process
from b2diffurl.config import check_range
from b2diffurl.distributed import AUTO, choose_device
from b2diffurl.errors import UserError

NumProcesses = int | Literal["auto"]
_THREADS = "OMP_NUM_THREADS"
_MAX_ON_CPU = 4  # ours: more have not been measured
_BYTES_EACH = 1.5 * 2**30  # ours: of a process with the embedded model, its judge and the libraries
_CAN_BLOCK = hasattr(signal, "pthread_sigmask")  # not on Windows
_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")  # those that the agent passes on; Windows has the first two


def count_processes(given: NumProcesses, device: str) -> int:
    """Return the world size of the run; 1 means that this process does the work.

    Args:
        given: the number, or "auto": one per CUDA device, or as many as the cores and the memory permit on the CPU.
        device: device of the model, which may be "auto".

    Raises:
        UserError: the number is below 1 or above the number of CUDA devices, or torchrun has started this process.
    """
    if given != AUTO:
        check_range("num_processes", given, [Ge(1)])
    if given != 1 and "WORLD_SIZE" in os.environ:
        raise UserError(
            f"num_processes is {given} but torchrun has started this process already; leave --num-processes out."
        )
    if given == 1:
        return 1
    chosen = torch.device(choose_device(device))
    if chosen.type == "cuda":
        return _count_on_cuda(given, chosen)
    if given != AUTO:
        return given
    return 1 if chosen.type == "mps" else _most_on_cpu()


def run_processes(num: int, work: Callable[[], int]) -> int:
    """Do `work` as ranks of one run, each in a process of its own, and print the error of the first that failed.

    Args:
        num: world size of the run.
        work: what each of them does, a function that can be pickled; it returns an exit code.

    Returns:
        The exit code: that of the first rank that failed, or 0.

    Raises:
        KeyboardInterrupt: the command was interrupted; all ranks have ended.
    """
    with TemporaryDirectory(prefix="b2diffurl-") as folder, _surroundings(num), _interrupts_wait():
        try:
            elastic_launch(_launch_config(num, folder), _work_as_rank)(work, folder)
        except ChildFailedError as error:
            code, message = _first_error(error, Path(folder))
            Console().show_cursor()  # the progress of rank 0 has hidden it, and the agent may have ended rank 0
            print(message, file=sys.stderr)
            return code
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from error
            return 128 + error.sigval
    return 0


def _count_on_cuda(given: NumProcesses, device: torch.device) -> int:
    """Return the world size on CUDA devices, one each."""
    most = torch.cuda.device_count() if str(device) == "cuda" else 1
    if given == AUTO:
        return most
    if given > most:
        raise UserError(
            f"num_processes is {given} but device is {str(device)!r}, which has {most}; give at most {most}."
        )
    return given


def _num_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _most_on_cpu() -> int:
    """Return how many processes this machine has the cores and the memory for."""
    fitting = int(psutil.virtual_memory().available / _BYTES_EACH)
    return max(1, min(_num_cores(), _MAX_ON_CPU, fitting))


def _launch_config(num: int, folder: str) -> LaunchConfig:
    """Return the settings of `torchrun --standalone`."""
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=folder),
    )


@contextmanager
def _surroundings(num: int) -> Generator[None]:
    """Return a context with the threads of each rank, without the agent's messages; it also restores signals."""
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    given, disabled = os.environ.get(_THREADS), logging.root.manager.disable
    os.environ.setdefault(_THREADS, str(max(1, _num_cores() // num)))
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
        if given is None:
            del os.environ[_THREADS]
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _interrupts_wait() -> Generator[None]:
    """Return a context in which new processes begin with SIGINT blocked, until they can end in one sentence.

    They inherit this from the main thread; another thread of the command receives the signal meanwhile.
    """
    if not _CAN_BLOCK:
        yield
        return
    resource_tracker.ensure_running()  # it would end the blocking, as it starts with the first process
    done = threading.Event()
    threading.Thread(target=done.wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        done.set()


def _first_error(error: ChildFailedError, folder: Path) -> tuple[int, str]:
    """Return the exit code and the message of the rank that failed first; the others fail because it has."""
    rank, failure = error.get_first_failure()
    own = folder / f"rank{rank}.txt"  # if it is there, the signal came as Python exited, after the error
    if failure.exitcode < 0 and not own.is_file():
        name = signal.Signals(-failure.exitcode).name
        return 1, f"b2diffurl: process {rank} of this run was ended by {name}; continue with --resume."
    files = sorted(folder.glob("rank*.txt"), key=lambda path: path.stat().st_mtime_ns)
    if not files:
        return failure.exitcode, f"b2diffurl: process {rank} of this run ended with exit code {failure.exitcode}."
    code, _, message = files[0].read_text(encoding="utf-8").partition("\n")
    return int(code), message


def _work_as_rank(work: Callable[[], int], folder: str) -> None:
    """Do the work of one rank; an error is stored in the folder."""
    signal.signal(signal.SIGINT, _interrupt_once)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare_process()
    try:
        code, message = outcome(partial(_interruptible, work))
    except Exception:  # noqa: BLE001 - the command prints it
        code, message = 1, traceback.format_exc().rstrip()
    if code:
        file = Path(folder) / f"rank{os.environ['RANK']}"
        file.write_text(f"{code}\n{message}", encoding="utf-8")
        file.rename(file.with_suffix(".txt"))  # the agent may end this process while it writes
        raise SystemExit(code)


def _interruptible(work: Callable[[], int]) -> int:
    if _CAN_BLOCK:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return work()


def _interrupt_once(number: int, frame: object) -> NoReturn:
    """Interrupt this process; a terminal's Ctrl-C arrives twice, as the agent sends it too."""
    del frame
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """End this process when the command has ended, killed with no chance to end its ranks."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
