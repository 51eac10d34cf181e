"""The benchmark behind `make bench`: how fast, how durable, how small, as ratios within one run."""
