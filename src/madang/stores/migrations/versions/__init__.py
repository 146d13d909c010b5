"""One file per version of the tables. A file that has been released never changes."""
