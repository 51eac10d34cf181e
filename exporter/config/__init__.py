"""Configuration: flags, settings, files that are reloaded when they change, and logging."""
