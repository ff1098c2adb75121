"""capkv-bench: quality, memory and speed of a budget against the full cache of the same quantized model.

kinds      one record for each kind of measurement; imports nothing of the bench
intervals  means and their intervals; imports nothing of the bench
run/       setups, contexts on a model, rows
tasks/     texts and questions
measure/   from an engine, setups and texts to rows
report/    from rows to tables, sentences, plots and pages
On top: options, terminal, full_run, cli. tests/bench/test_imports.py has the table of who may import whom.
"""
