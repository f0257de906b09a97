"""The stages joined with the store, without Ray: what is built once, found again, and written as rows.

    work = Workspace(config=config, dataset=load_dataset(config.data), study="digits")
    for number in missing_teachers(work):
        build_teachers(work, [number], SilentReporter())
    build_prior(work, SilentReporter(), SingleWorker())
    fingerprint = distill_generator(work, SilentReporter(), SingleWorker())
    for cell in missing_rows(work, EVALUATION_TABLE, plan_evaluations(work, fingerprint)):
        evaluate(work, cell)      # or evaluate_group, for all of a group_cells at once

Every artefact is named by the fingerprint of what makes it and is built only where it is missing, so each function
may be called again at any time, here or on another node.
"""
