"""Run folders compared: tables, figures and one page."""
