"""The stages joined with the store, without Ray.

    work = Workspace(config=config, dataset=load_dataset(config.data), study="digits")
    for number in missing_teachers(work):
        build_teachers(work, [number], SilentReporter())
    build_prior(work, SilentReporter(), SingleWorker())
    fingerprint = distill_generator(work, SilentReporter(), SingleWorker())
    for plan in missing_rows(work, EVALUATION_TABLE, plan_evaluations(work, fingerprint)):
        evaluate_group(work, [plan])

An artefact is named by the fingerprint of its configuration and built only if it is missing, so each function may be
called again at any time, on any node.
"""
