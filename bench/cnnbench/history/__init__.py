"""Performance history over commits: runs asv, reads its results and shows them."""
