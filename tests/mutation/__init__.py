"""Mutants of the pure core: small faults that are made on purpose, each of which a unit test must find."""
