"""The operators' listener: scrapes, health, the JSON API and pages, and who may look at them."""
