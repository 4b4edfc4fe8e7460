"""Prove that nothing is lost while everything dies (`make soak SOAK_SEED=n`).

Prints a table with floors, writes it and what was found to be wrong to `build/soak.json`, and exits with 1 when a
floor is missed. What the services said, and the journal, stay in `build/soak`.
"""

import argparse
import signal
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict

from benchmarks.soak import accounts
from benchmarks.soak.auditor import Findings, audit, manifests
from benchmarks.soak.run import Soaked, soak
from benchmarks.soak.settings import POINTS, SMALL, Least, Settings
from benchmarks.soak.workload import distinct_share
from benchmarks.tables import BUILD, Row, report
from servers.found import NoServerError

_SHOWN = 20
RULES = {
    "outcome": "runs without exactly one outcome, the one that was due",
    "digest": "outputs that differ from those of an undisturbed run",
    "poison": "poison messages in no dead-letter topic",
    "letter": "dead letters that are no poison",
    "manifest": "manifests whose blobs are missing or damaged",
    "second": "task keys with two results",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak; give the exit status."""
    asked = _parser().parse_args(arguments)
    least = SMALL if asked.small else Least()
    settings = Settings(asked.seed, asked.runs, asked.extractions, asked.minutes, asked.patience, least)
    # A supervisor that asks politely gets the same orderly end as a person, also where a shell had them ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        soaked = soak(settings, BUILD / "soak")
    except NoServerError as error:
        sys.stderr.write(f"soak: {error}\n")
        return 4
    except KeyboardInterrupt:
        sys.stderr.write("soak: interrupted; everything was ended\n")
        return 130
    findings = audit(soaked.evidence, soaked.expectation())
    rows = [*_proof(soaked, findings, settings.least.wasted), *_faults(soaked, settings), *_others(soaked)]
    shown = {rule: lines[:_SHOWN] for rule, lines in findings.wrong.items()}
    for rule, lines in shown.items():
        sys.stderr.write("".join(f"{rule}: {line}\n" for line in lines))
    details = {"settings": asdict(settings), "wrong": shown}
    return report(f"Soak, seed {settings.seed}: nothing is lost while everything dies", "soak", rows, details)


def _parser() -> argparse.ArgumentParser:
    default = Settings(0)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="chooses requests, their times, and the faults")
    parser.add_argument("--runs", type=int, default=default.runs, help="runs of the protocol")
    parser.add_argument("--extractions", type=int, default=default.extractions, help="real extractions")
    parser.add_argument("--minutes", type=float, default=default.minutes, help="over which all is spread")
    parser.add_argument("--patience", type=float, default=default.patience_minutes, help="minutes for what is left")
    parser.add_argument("--small", action="store_true", help="ask for a few faults only")
    return parser


def _proof(soaked: Soaked, findings: Findings, most_wasted: float) -> list[Row]:
    rows = [Row(text, findings.count(rule), 0, at_most=True) for rule, text in RULES.items()]
    found = _computations(soaked)
    wasted = sum(it.wasted for it in found)
    note = f"{wasted:.0f} of {sum(it.seconds for it in found):.0f} s"
    share = Row(
        "computing seconds that gave no published result", accounts.wasted_share(found), most_wasted, True, note
    )
    return [*rows, share]


def _faults(soaked: Soaked, settings: Settings) -> list[Row]:
    journal, least = soaked.journal.read(), settings.least
    met = [(f"died {point}", accounts.point_hits(journal, point), least.point) for point in POINTS]
    met.append(("kill -9 at random", accounts.kills(journal), least.kills))
    met.append(("long SIGSTOPs", accounts.long_stops(journal, _beyond(settings)), least.stops))
    met += [(f"restarts of the {it}", accounts.restarts(journal, it), least.restarts) for it in ("broker", "store")]
    return [Row(name, count, floor if least.is_floor else None) for name, count, floor in met]


def _others(soaked: Soaked) -> list[Row]:
    runs = {it.run_id: it.is_real for it in soaked.asked}
    beside = accounts.at_once(_computations(soaked))
    return [
        Row("runs of the protocol", list(runs.values()).count(False)),
        Row("real extractions", list(runs.values()).count(True)),
        Row("share of runs with results of their own", distinct_share(soaked.asked), 0.9),
        Row("messages of poison", len(soaked.poison)),
        # Nothing but a lapsed lease lets a second one begin, and each lets one.
        Row("computations that began beside another", beside, accounts.lapses(soaked.journal.read()), at_most=True),
        Row("processes left", len(soaked.leftovers), 0, at_most=True),
        Row("minutes", soaked.seconds / 60, 45, at_most=True),
    ]


def _beyond(settings: Settings) -> float:
    return settings.session_seconds + settings.lease_seconds


def _computations(soaked: Soaked) -> list[accounts.Computation]:
    published: dict[str, list[float]] = defaultdict(list)
    for key, manifest in manifests(soaked.evidence):
        published[key].append(manifest.get("seconds", -1.0))
    return accounts.computations(soaked.journal.read(), published)


if __name__ == "__main__":
    sys.exit(main())
