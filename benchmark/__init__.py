"""What a run is, and how one pack of runs is trained."""

__version__ = "0.1.0"

# Belongs to kd-tables (benchmark/package_names.py looks for this line)
