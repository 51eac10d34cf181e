"""A sender like the service: fleets, what befalls their callbacks on the way, and what must be counted.

It knows nothing of the fold: what it expects is counted from histories as they truly were, so that it can
tell whether the exporter is right.
"""
