"""The pages of the web listener."""
