"""Submit packs to a Slurm cluster as job arrays, by submitit. See README.md in this folder."""

# Belongs to kd-tables (benchmark/package_names.py looks for this line)
