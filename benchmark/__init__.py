"""A benchmark suite that regenerates the tables of knowledge-distillation papers."""

# Belongs to kd-tables (benchmark/package_names.py looks for this line)
