"""The operators' listener: metrics, health, the JSON API and pages, and who may look at them."""
