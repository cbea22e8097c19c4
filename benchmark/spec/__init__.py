"""What is to be done: protocols, tables and their runs, the plan and its cost, imported teachers."""
