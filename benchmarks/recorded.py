"""Describes the machine of a benchmark and stores its numbers."""

import datetime
import importlib.metadata
import json
import os
import platform
from pathlib import Path


def machine(*packages):
    """Returns the date, the processor, its load, and the versions of packages."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": f"{os.cpu_count()} x {names[0] if names else platform.machine()}",
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def keep(path, name, facts):
    """Adds the results of one part to a file."""
    results = json.loads(path.read_text()) if path.exists() else {}
    results[name] = facts
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
