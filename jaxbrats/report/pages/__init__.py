"""The report of a run: RUN/report.html, and for each case a page with a viewer, RUN/report/CASE.html."""
