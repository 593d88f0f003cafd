"""What is wrong with a cohort, said before anything is trained.

`cohort.check_cohort` reads every file of a cohort as preprocessing does, with the same functions, so that what it calls
an error is what preprocessing refuses. `text.as_text` is the report to read.
"""
