"""What each reward needs: weights, license, packages, memory. `b2diffurl rewards` prints it.

Looked up on 2026-11-25 in model cards, file lists of the hub and package metadata; what none of these states is None,
and printed as unknown. Sizes of weights are those of the files, so that memory is what the weights alone occupy.
"""

from dataclasses import dataclass

GIB_PER_GB = 1e9 / 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardFacts:
    """What a reward measures and needs.

    Attributes:
        summary: what it measures, at most 34 characters.
        source: paper or public code that it follows.
        weights: names and sizes of the weights; empty if it has none.
        license: license of the weights and packages; None if it is unknown.
        download_gb: GB (10^9 bytes) that are downloaded once; None if unknown.
        memory_gib: GiB that the weights occupy on the device; None if unknown.
        package: package that must be installed; empty for none.
        needs: what a user must provide, at most 10 characters; empty for nothing.
        table: its settings table, such as "vlm"; empty for none.
        note: how it is used, or what must be given.
    """

    summary: str
    source: str
    weights: str = ""
    license: str | None = None
    download_gb: float | None = 0.0
    memory_gib: float | None = 0.0
    package: str = ""
    needs: str = ""
    table: str = ""
    note: str = ""


SERVERS = {
    "imagereward": RewardFacts(
        summary="human preference, BLIP",
        source="arXiv 2304.05977; package image-reward 1.5",
        weights="THUDM/ImageReward: ImageReward.pt, 1.79 GB",
        license="Apache-2.0 (weights and package)",
        download_gb=1.79,
        memory_gib=1.79 * GIB_PER_GB,
        needs="a server",
        package="image-reward, in the server's environment",
        note="start examples/servers/imagereward.py and give remote:http://HOST:PORT",
    ),
    "hpsv3": RewardFacts(
        summary="human preference, Qwen2-VL-7B",
        source="package hpsv3 1.0.0",
        weights="MizzenAI/HPSv3: HPSv3.safetensors, size unknown",
        license="MIT (package); weights unknown",
        download_gb=None,
        memory_gib=None,
        needs="a server",
        package="hpsv3, in the server's environment",
        note="start examples/servers/hpsv3.py and give remote:http://HOST:PORT",
    ),
}
"""Rewards that need an environment of their own, each with a ready server in examples/servers."""
