"""What a program, never the library, sets for its whole process."""

import ctypes
import os
import sys

# The Hugging Face libraries read these when they are imported: errors alone. NVIDIA's libraries would else compute
# float32 convolutions in TF32, which has 10 bits, and rounds differently in batches of another shape.
_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "NVIDIA_TF32_OVERRIDE": "0",
}


def prepare_process() -> None:
    """Settings of the whole process that a library must not touch.

    glibc gives every large tensor's memory back to the kernel; to keep it halves the time of element-wise work.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
        except OSError:  # another C library
            return
        m_trim_threshold, m_mmap_max = -1, -4
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
