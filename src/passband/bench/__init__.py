"""Our layers and networks against torch's and the other baselines, in one process.

`run.run_benchmark` measures, `results.write_results` writes the files; `passband bench` does both.
"""
