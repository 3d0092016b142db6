"""What a run was made on: printed above its figures, as they are of that machine alone."""

import os
import platform
import time

from contenders import run


def machine():
    model = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
    memory = next(int(l.split()[1]) for l in open("/proc/meminfo") if l.startswith("MemTotal"))
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_mib": memory // 1024,
        "kernel": platform.release(),
        "date": time.strftime("%Y-%m-%d"),
        "fio": run("fio", "--version").strip(),
    }
