"""Studies: methods × learning rates × seeds (× one more knob) on a problem, and what can be said of the outcomes.

Every run is `ocnopt train` in a process of its own. All is in one folder:

    <problem>-<method>[-<rate>][-<knob>]-<seed>/    run folders, as `ocnopt train` leaves them
    <problem>-<method>[-<rate>][-<knob>]-<seed>.log what a run printed
    results.json                                    all numbers, see `results.Results`
    results.md                                      the same tables, sentences and pictures to read
    *.png                                           pictures

results.json is one object:

    command      what to type to get these results
    kind         "compare", "ablate" or "robustness"
    problem      the problems, separated by commas
    environment  hardware and versions of the first run, as in a summary.json
    sentences    what was found, one sentence or paragraph of Markdown each
    runs         a list of objects: problem, method, seed, rate, knob, status ("finished" or "diverged"), train_loss,
                 test_score, measure (its words), seconds, seconds_per_step, peak_memory_mb, folder (its name) and
                 what the study adds; null where a number is not finite or there is none
    tables       a list of objects: title, columns (words), rows (lists of words, as long as columns), note (or "")
    pictures     a list of objects: file (its name), caption
"""
