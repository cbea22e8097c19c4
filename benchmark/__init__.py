"""What a run is, and how one pack of runs is trained."""
