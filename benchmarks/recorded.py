"""What a benchmark writes down of the machine, and where it keeps its numbers."""

import datetime
import importlib.metadata
import json
import os
import platform
from pathlib import Path


def machine(*packages):
    """What the numbers are of: the day, the processor, its load, the versions of packages."""
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
    """Adds the facts of a part to a file of results."""
    results = json.loads(path.read_text()) if path.exists() else {}
    results[name] = facts
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
