"""Small pictures inside a file that would show the old defect."""
