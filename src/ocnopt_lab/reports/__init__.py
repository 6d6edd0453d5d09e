"""Reports: one HTML page of runs and studies that holds everything it shows."""

from ocnopt_lab.reports.page import render
from ocnopt_lab.reports.reading import Finding, read

__all__ = ["Finding", "read", "render"]
