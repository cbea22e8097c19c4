"""A benchmark suite that regenerates the tables of knowledge-distillation papers."""
