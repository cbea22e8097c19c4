"""The command line, one file for a family of verbs. Only here may every room be seen."""
