"""The EdgeFleet resource: how many edges there are, which one goes, and how its clients are moved before."""
