"""A Prometheus exporter for the relay-task callbacks of Tencent Cloud CSS."""

__version__ = "0.1.0"
