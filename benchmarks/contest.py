"""One whole comparison: set up, measure in rounds, put the results together."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.adapters import MAX_TOKENS
from benchmarks.corpora import NAMES, SEED, Corpus, make_corpora
from benchmarks.environments import BUILD, ROOT, Environment, megabytes, prepare_environment, quiet_environment
from benchmarks.lineup import Lineup, Ready, note_failure
from benchmarks.machine import busy_cores, circumstances
from benchmarks.measure import Measurer, Settings, cold_starts
from benchmarks.models import ARTIFACT, prepare_model
from benchmarks.process import SystemFailedError, SystemProcess
from benchmarks.reference import reference_vectors
from benchmarks.results import ColdStart, Row, latency_json, ratios
from benchmarks.systems import System
from model_bake.corpus import standard_library_passages

_WORK = BUILD / "work"
# Latency is that of texts of exactly so many tokens, taken from these corpora.
_LATENCY = {"short": 12, "long": MAX_TOKENS}
_BITS_CORPUS = "mixed"


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    sizes: texts of each corpus. tuned: which share of them the warm-up sees. alone: texts of the mixed corpus that are
    encoded alone too, to compare bits. starts: fresh processes of each system.
    """

    sizes: Mapping[str, int]
    tuned: float
    rounds: int
    latency_rounds: int
    latency_texts: int
    starts: int
    alone: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared, on which corpora, with how many threads and how thoroughly."""

    systems: tuple[System, ...]
    corpora: tuple[str, ...]
    threads: int
    effort: Effort


@dataclass(slots=True)
class Found:
    """What has been measured so far. busy_cores: by others, before and after."""

    rows: list[Row] = field(default_factory=list)
    same_bits: dict[str, int] = field(default_factory=dict)
    latency: dict[str, dict[str, Any]] = field(default_factory=dict)
    starts: dict[str, ColdStart] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    busy_cores: list[float | None] = field(default_factory=list)


def compare(plan: Plan) -> dict[str, Any]:
    """Set up and measure; return what latest.json says. A system that fails is named there, and the others go on."""
    found = Found()
    entries = set_up(plan.systems, found.failed)
    corpora = make_corpora(ARTIFACT / "tokenizer.json", standard_library_passages(), plan.effort.sizes)

    def start(entry: Ready) -> SystemProcess:
        return start_process(entry, plan.threads)

    found.busy_cores.append(busy_cores())
    with Lineup(entries, start, found.failed) as lineup:
        settings = _measure_running(plan, Measurer(lineup, _WORK), corpora, found)
    alive = [entry for entry in entries if entry.system.name not in found.failed]
    corpus = corpora[_BITS_CORPUS]
    chosen = settings.get(corpus.name, {})
    found.starts = cold_starts(alive, start, corpus.write(_WORK), chosen, plan.effort.starts, found.failed)
    found.busy_cores.append(busy_cores())
    return as_json(plan, entries, corpora, found)


def set_up(systems: Sequence[System], failed: dict[str, str]) -> list[Ready]:
    """Make each system's environment and model, once."""
    entries = []
    for system in systems:
        try:
            environment = prepare_environment(system.environment)
            model = prepare_model(system.model)
        except SystemFailedError as error:
            note_failure(failed, system.name, error)
            continue
        # Ours run from the checkout; its own environment tells what the library alone takes on disk.
        runs_in = Environment(Path(sys.prefix)) if system.is_ours else environment
        versions = runs_in.versions(system.packages)
        entries.append(Ready(system, runs_in.python, model, versions, environment.megabytes(), megabytes(model)))
    return entries


def start_process(entry: Ready, threads: int) -> SystemProcess:
    """Start a system's worker, on so many cores."""
    system = entry.system
    worker = (str(entry.python), "-m", "benchmarks.worker", f"benchmarks.adapters.{system.adapter}")
    return SystemProcess(
        [*worker, str(entry.model), str(threads), json.dumps(dict(system.options))],
        folder=ROOT,
        environment=quiet_environment(threads),
        log=BUILD / "logs" / f"{system.name}.log",
        cores=threads,
    )


def _measure_running(
    plan: Plan, measurer: Measurer, corpora: Mapping[str, Corpus], found: Found
) -> dict[str, Settings]:
    """Measure what loaded systems do. Returns the chosen settings by corpus."""
    settings = {name: _measure_corpus(plan.effort, measurer, corpora[name], found) for name in plan.corpora}
    for name, tokens in _LATENCY.items():
        texts = corpora[name].of_length(tokens, plan.effort.latency_texts)
        for system, seconds in measurer.latency(texts, plan.effort.latency_rounds).items():
            found.latency.setdefault(system, {})[texts.name] = latency_json(seconds)
    return settings


def _measure_corpus(effort: Effort, measurer: Measurer, corpus: Corpus, found: Found) -> Settings:
    reference = reference_vectors(corpus.texts)
    settings = measurer.tune(corpus, int(len(corpus.texts) * effort.tuned))
    seconds = measurer.speed(corpus, settings, effort.rounds)
    alone = effort.alone if corpus.name == _BITS_CORPUS else 0
    fidelity = measurer.fidelity(corpus, settings, reference, alone)
    if alone:
        found.same_bits = {system: each.same_bits for system, each in fidelity.items()}
    found.rows += [
        Row(
            system=system,
            corpus=corpus.name,
            texts=len(corpus.texts),
            tokens=sum(corpus.tokens),
            setting=settings[system],
            seconds=tuple(timed),
            cosine=fidelity[system].cosine if system in fidelity else None,
        )
        for system, timed in seconds.items()
    ]
    return settings


def as_json(plan: Plan, entries: Sequence[Ready], corpora: Mapping[str, Corpus], found: Found) -> dict[str, Any]:
    """Put latest.json together."""
    measured = {row.system for row in found.rows}
    ours = next((system.name for system in plan.systems if system.is_ours and system.name in measured), None)
    alone = min(plan.effort.alone, len(corpora[_BITS_CORPUS].texts))
    return {
        "machine": circumstances(),
        "versions": {entry.system.name: dict(entry.versions) for entry in entries},
        "seed": SEED,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "threads": plan.threads,
        "busy_cores": found.busy_cores,
        "rounds": plan.effort.rounds,
        "corpora": {name: _described(corpora[name]) for name in NAMES if name in plan.corpora},
        "systems": {entry.system.name: _facts(entry) for entry in entries},
        "ours": ours,
        "ratios": {} if ours is None else ratios(found.rows, ours),
        "rows": [row.as_json() for row in found.rows],
        "latency": found.latency,
        "cold_start": {name: start.as_json() for name, start in found.starts.items()},
        "batch_invariance": {name: {"same_bits": same, "texts": alone} for name, same in found.same_bits.items()},
        "failed": found.failed,
    }


def _described(corpus: Corpus) -> dict[str, int]:
    return {
        "texts": len(corpus.texts),
        "tokens": sum(corpus.tokens),
        "shortest": min(corpus.tokens),
        "longest": max(corpus.tokens),
    }


def _facts(entry: Ready) -> dict[str, Any]:
    return {
        "title": entry.system.title,
        "is_ours": entry.system.is_ours,
        "choices": entry.system.choices,
        "installed_mb": round(entry.installed_megabytes),
        "model_mb": round(entry.model_megabytes, 1),
    }
