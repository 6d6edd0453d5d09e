"""The search for the library's defaults: what is searched, on what it is measured, and what came of it.

results.json: command, environment, sentences, importances (knob → share of the variance), trials (number, state, value,
params), and checks: of each candidate its measured runs on problems of the search and on those left out.
"""
