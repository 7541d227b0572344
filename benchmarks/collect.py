"""python benchmarks/collect.py WORK OUT: one JSON and one log of what benchmarks/gpu.sh has measured so far.

WORK has a folder for each step, with its log and with the JSON that it wrote; steps.tsv says how each ended. It needs
nothing but Python itself, so that it works after every step, whatever became of it.
"""

import json
import sys
from pathlib import Path
from typing import Any

_TAIL = 20
"""Lines of a failed step's log that go into the JSON."""


def collect(work: Path, out: Path) -> dict[str, Any]:
    """Write OUT/gpu.json and OUT/gpu.log; returns the steps without their single measurements."""
    steps: dict[str, Any] = {}
    logs = []
    for line in (work / "steps.tsv").read_text().splitlines():
        name, status, seconds, limit = line.split("\t")
        log = (work / name / "log").read_text(errors="replace")
        logs.append(f"== {name}: status {status} after {seconds} s of {limit}\n{log}")
        results = [json.loads(path.read_text()) for path in sorted((work / name).glob("*.json"))]
        steps[name] = {"status": int(status), "seconds": int(seconds), "results": results}
        if int(status) or not results:
            steps[name]["log"] = log.splitlines()[-_TAIL:]
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json").write_text(json.dumps({"benchmark": "gpu", "steps": steps}, indent=1) + "\n")
    (out / "gpu.log").write_text("\n".join(logs))
    for step in steps.values():
        for result in step["results"]:
            result.pop("rounds", None)
    return {"benchmark": "gpu", "steps": steps}


if __name__ == "__main__":
    print(json.dumps(collect(Path(sys.argv[1]), Path(sys.argv[2]))))
