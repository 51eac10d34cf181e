"""Metrics: the catalogue of families, the stored values, and the metrics of this process."""
