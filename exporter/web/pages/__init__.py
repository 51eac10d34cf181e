"""The HTML pages of the web listener."""
