"""Stored results."""

from tests.benchmarks.keeping import keep, read_machine, read_machines
from tests.benchmarks.results import Figure, Report


def report(subject: str, ours: float) -> Report:
    figure = Figure("float32, batch 1", "ms a step", ours, "less", peer=6.0, ratio_goal=1.4, limit=1.0, equal="all")
    return Report(subject, "transformers", [figure], ["Of one machine."])


def test_a_stored_report_is_read_back_unchanged(tmp_path):
    file = keep(tmp_path, "AMD EPYC (Zen 4), 2 cores", "load 0.1", [report("Steps, in all", 2.0)])
    assert file.name == "amd-epyc-zen-4-2-cores.json"
    machine = read_machine(file)
    assert machine.name == "AMD EPYC (Zen 4), 2 cores"
    (kept,) = machine.reports
    assert (kept.circumstances, kept.report) == ("load 0.1", report("Steps, in all", 2.0))


def test_a_report_replaces_only_the_last_one_of_its_subject_and_machine(tmp_path):
    for machine, load, reports in (
        ("one", "0.1", [report("Steps", 1.0), report("Rows", 2.0)]),
        ("other", "0.2", [report("Steps", 3.0)]),
        ("one", "0.3", [report("Steps", 4.0)]),
    ):
        keep(tmp_path, machine, f"load {load}", reports)
    one, other = read_machines(tmp_path)
    assert [(kept.report.subject, kept.circumstances) for kept in one.reports] == [
        ("Steps", "load 0.3"),
        ("Rows", "load 0.1"),
    ]
    figures = [machine.figure("Steps", "float32, batch 1") for machine in (one, other)]
    assert [figure.ours for figure in figures if figure] == [4.0, 3.0]
    assert one.figure("Steps", "float16, batch 1") is None
