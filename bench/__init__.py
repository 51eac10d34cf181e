"""The benchmark of `make bench`: throughput, latency, scrapes and memory, mostly as ratios within one run."""
