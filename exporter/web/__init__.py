"""The web listener, for operators and Prometheus: metrics, health, JSON API, pages, and authentication."""
