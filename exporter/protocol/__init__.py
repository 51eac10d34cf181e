"""What the service sends: its events."""
