"""Run a command of the suite on many machines, through Dask."""
