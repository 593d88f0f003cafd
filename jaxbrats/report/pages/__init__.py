"""The report of a run: RUN/report.html, and for each case a page with a viewer, RUN/report/CASE.html."""

# Made last: a run without it is not finished.
REPORT = "report.html"
