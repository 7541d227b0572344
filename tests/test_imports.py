"""Who may import whom, read from the sources: the dependency direction of the design."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("chatterbox_engine", "deployments", "dashboards", "loadtest", "drills", "benchmarks", "training")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
MOST_LINES = 400

ENGINE = "chatterbox_engine"
BOTTOM = tuple(f"{ENGINE}.{name}" for name in ("accel", "types", "config", "errors", "spec", "mailbox", "worker",
                                               "weights"))  # fmt: skip
STAGES = (f"{ENGINE}.t3", f"{ENGINE}.s3gen")
TOP = tuple(f"{ENGINE}.{name}" for name in ("stages", "checkpoint", "utterance", "speaker", "tts", "multilingual_tts",
                                            "turbo_tts", "metrics", "exporter"))  # fmt: skip
FORBIDDEN: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    ((ENGINE,), ("deployments", "dashboards", "loadtest", "drills", "benchmarks", "training")),
    ((ENGINE,), ("ray", "fastapi", "starlette", "grafana_foundation_sdk", "locust")),
    ((*BOTTOM, *STAGES, f"{ENGINE}.metrics", f"{ENGINE}.text"), ("prometheus_client",)),
    ((STAGES[0],), (STAGES[1],)),
    ((STAGES[1],), (STAGES[0],)),
    (STAGES, TOP),
    (BOTTOM, (*STAGES, *TOP)),
    (("deployments",), ("dashboards", "loadtest", "drills", "benchmarks")),
    (("dashboards",), ("deployments", "torch", "loadtest", "benchmarks")),
    (("loadtest",), (ENGINE, "deployments", "drills", "torch", "ray")),
]
"""(who, whom): none of the first import any of the second."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Every module named in an import, wherever it stands in the file; `from a import b` names a and a.b."""
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join((*origin, *(node.module.split(".") if node.module else ())))
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_a_source_file_imports_only_what_it_may_and_is_short(path: Path) -> None:
    module, imports = module_of(path), imports_of(path)
    wrong = {name for who, whom in FORBIDDEN if within(module, who) for name in imports if within(name, whom)}
    assert not wrong
    assert len(path.read_text().splitlines()) < MOST_LINES


def test_every_rule_is_about_something() -> None:
    modules = [module_of(path) for path in SOURCES]
    built = [who for who in {name for names, _ in FORBIDDEN for name in names} if (ROOT / who.split(".")[0]).is_dir()]
    assert ENGINE in built
    for who in built:
        assert any(within(module, (who,)) for module in modules), f"{who} is no module"


@pytest.mark.parametrize("module", ["deployments.ingress", "deployments.jobs"])
def test_who_only_talks_to_engines_starts_without_torch(module: str) -> None:
    """It takes as long to import as all else that such a process needs, and as much memory."""
    program = f"import sys, {module}; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert ran.stdout.split() == ["False"]


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    speaker = imports_of(ROOT / ENGINE / "speaker.py")
    assert {"chatterbox_engine.stages", "chatterbox.tts.ChatterboxTTS", "torch", "torch.Tensor"} <= speaker
    assert "librosa" in imports_of(ROOT / ENGINE / "clip.py")  # inside a function
