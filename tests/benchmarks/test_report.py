"""Tables, conditions and JSON."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import bandwidth, conditions, subject
from benchmarks.measure import Spread
from benchmarks.report import Column, Report, conditions_line, file_name, measured, number, table
from chatterbox_engine.errors import InvalidRequest


def test_a_report_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"variant": "own", "time": Spread(0.002, 0.001, 0.003)}, {"variant": "other"}]
    columns = (Column("variant", "V"), Column("time", "T", lambda value: measured(value, 1e3)))
    path = Report("name", {"date": "today"}, columns, rows, {"own": [{"time": 0.001}]}).emit(tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:6] == [
        "date today",
        "",
        "| V | T |",
        "| --- | --- |",
        "| own | 2.00 (1.00..3.00) |",
        "| other |  |",
    ]
    last, written = json.loads(printed[-1]), json.loads(path.read_text())
    assert last["rows"][0]["time"] == {"median": 0.002, "min": 0.001, "max": 0.003}
    assert written == {**last, "rounds": {"own": [{"time": 0.001}]}}


def test_a_file_is_all_of_a_report_or_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Path, text: str) -> int:
        with self.open("w") as file:
            file.write(text[:10])
        raise KeyboardInterrupt

    path = Report("name", {"date": "today"}, (), [{"row": 1}]).write(tmp_path)
    before = path.read_text()
    monkeypatch.setattr(Path, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Report("name", {"date": "today"}, (), [{"row": 1}, {"row": 2}]).write(tmp_path)
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234.5, "1234"), (12.345, "12.3"), (1.0, "1.00"), (0.012345, "0.0123"), (9.2e-7, "0.000000920")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_conditions_are_one_line() -> None:
    told = {"a_b": 1, "none": None, "empty": [], "list": ["x", "y"], "bytes": 2_500_000_000, "seconds": 0.123456}
    assert conditions_line(told) == "a b 1, list x y, bytes 2.50 G, seconds 0.1235"


def test_conditions_say_where_and_of_what() -> None:
    given = subject.Subject(
        "dummy:tiny", torch.device("cpu"), "balanced", ("warmup=none",), subject.configured("balanced", ())
    )
    told = conditions.gather(given, 3, "a date", tokens=5)
    assert told["date"] == "a date"
    assert told["threads"] == torch.get_num_threads()
    assert (told["model"], told["switches"], told["repeats"], told["tokens"]) == ("dummy:tiny", ["warmup=none"], 3, 5)
    assert {"commit", "dirty", "processor", "torch"} <= told.keys()
    assert conditions.peak_bytes(given.device) > 1e7


def test_file_names_are_plain() -> None:
    assert file_name("t3", "dummy:chatterbox", "cpu") == "t3-dummy-chatterbox"
    assert file_name("t3", "/a folder/x.y", "cuda") == "t3-a-folder-x.y-cuda"


def test_switches_are_json_or_words() -> None:
    switches = ("t3.quantization=int8", "s3gen.chunk_schedule=[10,20]", "watermark=false", "s3gen.context_window=null")
    config = subject.configured("latency", switches)
    assert config.t3.quantization == "int8"
    assert config.s3gen.chunk_schedule == (10, 20)
    assert config.watermark is False
    assert config.warmup == "full"
    for wrong in ("t3.quantization", "t3.no_such=1", "no_such=1", "t3.max_streams=0"):
        with pytest.raises(InvalidRequest):
            subject.configured("latency", (wrong,))


def test_a_table_of_nothing_has_its_head() -> None:
    assert table((Column("a", "A"),), []) == "| A |\n| --- |"


def test_rates_are_measured() -> None:
    cpu = torch.device("cpu")
    assert bandwidth.memory(cpu, size=2**20).per_second > 0
    assert bandwidth.matmul(cpu, torch.float32, size=64).per_second > 0
