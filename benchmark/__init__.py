"""What a run is, and how one pack of runs is trained."""

# Belongs to kd-tables (benchmark/package_names.py looks for this line)
