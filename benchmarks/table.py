"""latest.json as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


def markdown(results: Mapping[str, Any]) -> str:
    """Return the whole page."""
    parts = ["# Embakery and its peers, one run\n", _circumstances(results)]
    parts += [f"## {title}\n\n{table}" for title, table in _tables(results) if table]
    if results["failed"]:
        parts.append("## Not measured\n\n" + "\n".join(f"- {name}: {why}" for name, why in results["failed"].items()))
    return "\n".join(parts) + "\n"


def _tables(results: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    yield "Thousand real tokens a second, median of the rounds (best)", _speed(results)
    if results["ratios"]:
        yield f"{results['ours']} is so many times faster, median of the rounds' ratios", _ratios(results)
    yield "One text at a time, start, size", _footprint(results)
    yield "Cosine to the fp32 vectors, mean / first percentile / lowest", _fidelity(results)


def _circumstances(results: Mapping[str, Any]) -> str:
    machine = results["machine"]
    return (
        f"{results['date']}, {machine['machine']}, {results['threads']} threads, Python {machine['python']}, "
        f"seed {results['seed']}, {results['rounds']} rounds. Model all-MiniLM-L6-v2, mean pooling, at most 256 "
        f"tokens. Tokenization is included. Compare figures of one run only.{_busy(results)}\n"
    )


def _busy(results: Mapping[str, Any]) -> str:
    others = [each for each in results["busy_cores"] if each is not None]
    return f" Cores that others kept busy before and after: {' and '.join(map(str, others))}." if others else ""


def _speed(results: Mapping[str, Any]) -> str:
    def cell(row: Mapping[str, Any]) -> str:
        return f"{row['tokens_per_s'] / 1000:.1f} ({row['tokens_per_s_best'] / 1000:.1f})"

    return _by_corpus(results, cell)


def _fidelity(results: Mapping[str, Any]) -> str:
    def cell(row: Mapping[str, Any]) -> str:
        cosine = row["cosine"]
        return "-" if cosine is None else f"{cosine['mean']:.4f} / {cosine['p1']:.4f} / {cosine['min']:.4f}"

    return _by_corpus(results, cell)


def _by_corpus(results: Mapping[str, Any], cell: Callable[[Mapping[str, Any]], str]) -> str:
    corpora = list(results["corpora"])
    cells = {(row["system"], row["corpus"]): cell(row) for row in results["rows"]}
    measured = {row["system"] for row in results["rows"]}
    rows = [
        [facts["title"], *(cells.get((name, corpus), "-") for corpus in corpora)]
        for name, facts in results["systems"].items()
        if name in measured
    ]
    return _table(["system", *corpora], rows)


def _ratios(results: Mapping[str, Any]) -> str:
    corpora = list(results["corpora"])
    rows = [
        [results["systems"][name]["title"], *(f"{by[corpus]:.2f}" if corpus in by else "-" for corpus in corpora)]
        for name, by in ((name, results["ratios"].get(name)) for name in results["systems"])
        if by
    ]
    return _table(["than", *corpora], rows)


def _footprint(results: Mapping[str, Any]) -> str:
    rows = []
    for name, facts in results["systems"].items():
        latency, start = results["latency"].get(name, {}), results["cold_start"].get(name)
        same = results["batch_invariance"].get(name)
        rows.append(
            [
                facts["title"],
                *(f"{each['p50_ms']:.2f} / {each['p95_ms']:.2f}" for each in latency.values()),
                *["-"] * (2 - len(latency)),
                "-" if start is None else f"{start['seconds_median']:.2f} ({start['seconds_best']:.2f})",
                "-" if start is None else f"{start['peak_mb']}",
                f"{facts['installed_mb']:.0f}",
                f"{facts['model_mb']:.0f}",
                "-" if same is None else f"{same['same_bits']} of {same['texts']}",
            ]
        )
    heads = ["system", "12 tokens, p50 / p95 ms", "256 tokens, p50 / p95 ms", "start to first vector s, median (best)"]
    return _table([*heads, "peak MB", "packages MB", "model MB", "same bits alone and in a batch"], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
