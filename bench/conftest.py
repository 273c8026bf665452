"""Add the machine to every result, and GB/s, ratios and errors to the output."""

import platform

import torch


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["torch"] = torch.__version__
    machine_info["threads"] = torch.get_num_threads()
    machine_info["capability"] = torch.backends.cpu.get_cpu_capability()
    machine_info["processor"] = platform.processor() or platform.machine()


def pytest_benchmark_update_json(config, benchmarks, output_json):
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"].pop("data", None)  # the single times: the statistics are enough


def pytest_terminal_summary(terminalreporter):
    from draw import print_tables

    session = getattr(terminalreporter.config, "_benchmarksession", None)
    if session is not None and session.benchmarks:
        rows = [
            {"extra_info": benchmark.extra_info, "stats": {"median": benchmark.stats.median}}
            for benchmark in session.benchmarks
        ]
        terminalreporter.write_sep("-", f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians")
        print_tables(rows, terminalreporter.write_line)
