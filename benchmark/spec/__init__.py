"""What is to be done: runs and their keys, tables read as a matrix of runs, protocols, the plan, its cost,
and imported teachers."""
