"""Studies on real history: each makes the tables and pictures of a page of the documentation."""
