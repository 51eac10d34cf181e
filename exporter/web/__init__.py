"""The two HTTP surfaces: callbacks from the internet, and what operators look at."""
