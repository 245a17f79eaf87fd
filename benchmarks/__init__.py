"""The benchmarks: each folder has a configuration, results and a README with the command that makes them."""
