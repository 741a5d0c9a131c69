"""What is computed from containers: times, cgroups, statistics, prices, tables. No Docker is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import cold_start, deployed
from benchmarks.containers import Size, function_environment, nanoseconds
from benchmarks.containers_images import PEERS, cpu_only
from benchmarks.containers_memory import Memory, cgroup_folder
from benchmarks.containers_starts import Series, Start, ratios, spread
from benchmarks.deployed import PRICES, dollars_per_million

MEMORY = Memory(70.0, 31.0, 26.0, 4.0, 5.0, "memory.peak")


def started(*first_answers: float) -> Series:
    return Series(tuple(Start(each / 2, each, each, MEMORY, answer={}) for each in first_answers))


@pytest.mark.parametrize(
    ("moment", "rest"),
    [
        ("2026-11-25T07:51:55.840123456Z", 840123456),
        ("2026-11-25T07:51:55.84Z", 840000000),
        ("2026-11-25T07:51:55Z", 0),
        ("2026-11-25T08:51:55.000000001+01:00", 1),
    ],
)
def test_docker_s_moments_keep_their_nanoseconds(moment: str, rest: int) -> None:
    assert nanoseconds(moment) == 1795593115 * 10**9 + rest


def test_a_moment_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not a moment"):
        nanoseconds("yesterday")


def test_cpu_goes_with_memory() -> None:
    assert Size.of(1769) == Size(1769, 1.0)
    assert Size.of(512) == Size(512, 0.289)
    assert Size.of(10**9).cpus == int(Size.of(10**9).cpus)


def test_a_function_is_told_its_size_and_where_lambda_is() -> None:
    found = function_environment("handlers.api.handler", size=Size(512, 0.29), api="127.0.0.1:9001")
    assert found["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "512"
    assert found["AWS_LAMBDA_RUNTIME_API"] == "127.0.0.1:9001"
    assert found["_HANDLER"] == "handlers.api.handler"


def test_cgroups_of_version_1_are_found_by_their_controller() -> None:
    groups = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n"
    assert cgroup_folder(groups, "memory", Path("/cg")) == Path("/cg/memory/docker/abc")
    assert cgroup_folder(groups, "cpuacct", Path("/cg")) == Path("/cg/cpu,cpuacct/docker/abc")


def test_cgroups_of_version_2_are_one() -> None:
    groups = "0::/system.slice/docker-abc.scope\n"
    assert cgroup_folder(groups, "memory", Path("/cg")) == Path("/cg/system.slice/docker-abc.scope")


def test_spread_names_median_and_tenths() -> None:
    assert spread([float(each) for each in range(11)]) == {"p10": 1.0, "p50": 5.0, "p90": 9.0}
    assert spread([7.0]) == {"p10": 7.0, "p50": 7.0, "p90": 7.0}


def test_ratios_are_the_median_of_the_rounds_own() -> None:
    found = {"ours": started(100, 200, 400), "peer": started(300, 400, 400)}
    assert ratios(found, "ours") == {"peer": {"first_answer": 2.0, "init": 2.0}}


def test_who_was_killed_has_no_ratio_but_stands_in_the_results() -> None:
    killed = Series((), failed="killed at 512 MB")
    assert ratios({"ours": started(1), "peer": killed}, "ours") == {}
    assert ratios({"ours": killed, "peer": started(1)}, "ours") == {}
    assert killed.as_json() == {"failed": "killed at 512 MB"}


def test_a_series_tells_both_peaks_and_where_they_were_read() -> None:
    found = started(100, 200, 300).as_json()
    assert (found["process_peak_mb"], found["cgroup_peak_mb"], found["cgroup_source"]) == (70.0, 31.0, "memory.peak")
    assert found["first_answer_ms"]["p50"] == 200


def test_a_price_is_time_and_memory_and_the_request() -> None:
    # 1,000 documents in 6 s at 1 GB: 6,000 GB-seconds and 1,000 requests for a million.
    dollars = dollars_per_million(1000, 6.0, 1024, architecture="x86_64")
    assert dollars == pytest.approx(6000 * 0.0000166667 + 1000 * 0.20 / 1e6)
    assert dollars_per_million(1000, 6.0, 1024, architecture="aarch64") < dollars


def test_a_begun_millisecond_is_paid() -> None:
    assert dollars_per_million(1, 0.0001, 1024, architecture="x86_64") == dollars_per_million(
        1, 0.001, 1024, architecture="x86_64"
    )


def test_prices_say_when_and_where() -> None:
    assert (PRICES.as_of, PRICES.region) == ("2026-11", "us-east-1")


def test_torch_is_pinned_to_its_cpu_build_and_nothing_else_is_touched() -> None:
    constraints = "tokenizers==0.22.2\ntorch==2.13.0\ntorchvision==1.0\n"
    assert cpu_only(constraints) == "tokenizers==0.22.2\ntorch==2.13.0+cpu\ntorchvision==1.0\n"
    assert cpu_only(cpu_only(constraints)) == cpu_only(constraints)


def test_every_peer_has_its_function_and_requirements() -> None:
    for peer in PEERS:
        assert peer.function.exists()
        assert (Path(deployed.__file__).parent / "requirements" / f"{peer.requirements}.txt").exists()


def test_the_cold_start_table_has_a_row_for_each_system() -> None:
    facts = {"image_mb": 281.1, "compressed_mb": 118.7, "packages": 17, "files": 10589}
    found = {"embakery": started(100, 110), "peer": Series((), failed="killed at 512 MB")}
    entry = {
        "memory_mb": 512,
        "cpus": 0.29,
        "page_cache": "warm",
        "systems": {name: each.as_json() for name, each in found.items()},
        "ratios": ratios(found, "embakery"),
    }
    systems = {"embakery": {"title": "Embakery", **facts}, "peer": {"title": "A peer", **facts}}
    page = cold_start.markdown({"systems": systems, "starts": [entry]})
    assert "| A peer | killed at 512 MB | | | | |" in page
    assert "| Embakery | 52 | 105 (101 to 109) | 105 | 70 / 31 |  |" in page


def test_the_table_of_sizes_says_what_fits() -> None:
    fits: dict[str, Any] = {"fits": True, "seconds": 6.71, "messages_given_back": 0, **MEMORY.as_json()}
    peaks = {
        "usual": fits,
        "short": fits,
        "largest": fits | {"messages_given_back": 2},
        "rerank": {"fits": False, "failed": "killed at 256 MB"},
    }
    throughput = {"documents_per_s": 174.2, "dollars_per_million_documents": 0.1661}
    rows = [
        {"memory_mb": 256, "cpus": 0.145, "peaks": peaks, "throughput": throughput},
        {"memory_mb": 512, "cpus": 0.289, "peaks": peaks, "throughput": {"failed": "killed at 512 MB"}},
    ]
    lines = deployed.markdown({"sizes": rows}).splitlines()
    usual = "6.7, 70 / 31"
    assert lines[2] == f"| 256 | 0.145 | {usual} | {usual} | {usual}, 2 given back | killed at 256 MB | 174 | 0.166 |"
    assert lines[3].endswith("| killed at 512 MB |  |")


def test_the_command_line_takes_the_image() -> None:
    assert cold_start.parse(["--image", "embakery:trial"]).image == "embakery:trial"
    assert cold_start.parse(["--only", "onnxruntime"]).only == ["onnxruntime"]
