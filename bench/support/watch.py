"""A plugin of pytest for measured runs: how long they take, how far they are, and the table of ratios at the end."""

from typing import Any

import pytest
from support import selection
from support.case_seconds import KEY, Progress, Record, in_words
from support.summary import ratios_as_text, summarise


class Watch:
    """Watches one run.

    Args:
        config: pytest's.
        measured: the node ids that will be timed.
        record: the recorded seconds per case.
        limit: seconds after which no benchmark begins.
    """

    def __init__(self, config: pytest.Config, measured: list[str], record: Record, limit: float):
        self.config, self.record, self.limit = config, record, limit
        self.progress = Progress(record.estimate(measured))
        self.results: list[dict[str, Any]] = []

    def pytest_report_collectionfinish(self) -> list[str]:
        """Say how many benchmarks will run, and how long that may take."""
        seconds = self.progress.estimate_rest()
        lines = [f"{len(self.progress.expected)} benchmarks, about {in_words(seconds)}"]
        lines.append(f"estimated from {self.record.how} on {self.record.machine}; a busy machine takes longer")
        if self.limit < seconds:
            lines.append(
                f"FASTVGAN_BENCH_SECONDS: benchmarks that have not begun after {in_words(self.limit)} are skipped"
            )
        if not self.config.getoption("full", False) and selection.is_directory_run(self.config):
            lines.append("--full runs all benchmarks; a file, a node id or -k runs those that it names")
        return lines

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the seconds of a case's setup, call or teardown."""
        if report.nodeid in self.progress.expected:
            self.progress.add(report.nodeid, report.duration)

    def pytest_runtest_logfinish(self) -> None:
        """Write a line about the run now and then."""
        line, terminal = self.progress.line(), self.config.pluginmanager.get_plugin("terminalreporter")
        if line and terminal:
            terminal.ensure_newline()
            terminal.write_line(line)

    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        """Add the seconds per case, for `python bench/renew_seconds.py`."""
        output_json[KEY] = {node: round(seconds, 2) for node, seconds in self.progress.seconds.items()}

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_group_stats(self, benchmarks: list[dict[str, Any]]) -> None:
        """Keep the results for the table; pytest-benchmark's own implementation then groups them."""
        self.results = [{**benchmark, "stats": benchmark} for benchmark in benchmarks]

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """End with the table of ratios."""
        ours = [result for result in self.results if "variant" in result["extra_info"]]
        if not ours:
            return
        hook = self.config.hook
        machine = hook.pytest_benchmark_generate_machine_info(config=self.config)
        hook.pytest_benchmark_update_machine_info(config=self.config, machine_info=machine)
        commit = hook.pytest_benchmark_generate_commit_info(config=self.config)
        hook.pytest_benchmark_update_commit_info(config=self.config, commit_info=commit)
        data = {"machine_info": machine, "commit_info": commit, "datetime": "", "benchmarks": ours}
        summary = summarise(data)
        if not any("ratio" in group for group in summary["groups"].values()):
            return  # of ours or of stock alone
        terminalreporter.section("our times against the best stock variant's")
        terminalreporter.write_line(ratios_as_text(summary))
