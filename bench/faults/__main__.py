"""Trains with known faults and without, and tells what `check_health` finds.

    python -m bench.faults                   # all runs, in two processes
    python -m bench.faults --keep FOLDER     # keep the records
    python -m bench.faults --again FOLDER    # judge kept records anew, without training

The limits may be tuned on the networks of TUNED_ON. The others are held out. The last table counts both.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import re
import sys
import time
from pathlib import Path

from .judge import jobs, work
from .table import details, matrix, summary, summary_lines


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=re.compile, metavar="REGEX", help="runs whose name, NETWORK-FAULT, has this")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the records and what the monitor said")
    parser.add_argument("--again", type=Path, metavar="FOLDER", help="judge the records of an earlier --keep")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all verdicts as JSON")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    chosen = [job for job in jobs() if arguments.only is None or arguments.only.search(job.folder)]
    if arguments.again:  # an earlier --keep may have had other runs
        chosen = [job for job in chosen if (arguments.again / f"{job.folder}.json").exists()]
    start = time.perf_counter()
    verdicts = []
    call = functools.partial(work, keep=arguments.keep, again=arguments.again)
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for verdict in pool.imap(call, chosen):
            verdicts.append(verdict)
            print(f"\r{len(verdicts)} of {len(chosen)} runs ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(*details(verdicts), "", *matrix(verdicts), "", *summary_lines(verdicts), sep="\n")
    print(f"{len(chosen)} runs in {time.perf_counter() - start:.0f} s")
    if arguments.out:
        runs = [verdict.to_json() for verdict in verdicts]
        arguments.out.write_text(json.dumps({"summary": summary(verdicts), "runs": runs}, indent=1) + "\n")
    return any(not verdict.learnt for verdict in verdicts)


if __name__ == "__main__":
    sys.exit(main())
