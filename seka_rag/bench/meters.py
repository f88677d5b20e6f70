"""Time, and the most memory that something needed: of this process, or of a GPU."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
import time
from pathlib import Path

import torch

from seka_rag.errors import SettingError


def now(device: torch.device) -> float:
    """Seconds. A single thread on a processor is timed by what it computed, so that other load disturbs less."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def start_peak(device: torch.device) -> None:
    """Forget the peak so far.

    Raises:
        SettingError: no GPU, and not Linux, which alone can forget a peak.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    if sys.platform != "linux":
        raise SettingError(
            "peak memory of a process is measured through /proc: run the benchmark on Linux, or on a GPU"
        )
    ctypes.CDLL(None).malloc_trim(0)  # what is free but kept would hide the next peak
    Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    """Bytes: the most that was held since ``start_peak``, model and all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def free(device: torch.device) -> int:
    """Bytes that could still be had."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert found is not None
    return int(found[1]) * 1024
