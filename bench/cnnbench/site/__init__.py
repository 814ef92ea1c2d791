"""What the site shows of committed results: lists of runs, and a page for each run."""
