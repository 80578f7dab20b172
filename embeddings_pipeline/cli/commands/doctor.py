"""`embeddings-pipeline doctor`: what keeps this installation from working."""

from __future__ import annotations

import typer

from embeddings_pipeline.cli import output
from embeddings_pipeline.cli.main import WRONG
from embeddings_pipeline.cli.selection import AsJson
from embeddings_pipeline.cli.terminal import on_one_line
from embeddings_pipeline.diagnosis import Finding, diagnose


def doctor(as_json: AsJson = False) -> None:
    """Check settings, servers, privileges, models, dbt and Dagster, and say what to do. Writes
    nothing, calls no provider and starts no server. Exit code 2 where something is wrong."""
    findings = diagnose()
    wrong = sum(finding.level == "wrong" for finding in findings)
    if as_json:
        output.print_json({"checks": findings, "wrong": wrong})
    else:
        for finding in findings:
            output.print_line(_line(finding))
    if wrong:
        raise typer.Exit(WRONG)


def _line(finding: Finding) -> str:
    advice = f"; {finding.advice}" if finding.advice else ""
    return on_one_line(f"{finding.level:<8} {finding.check}: {finding.found}{advice}")
