"""How a pack of runs is trained."""
