"""Results of the sweep as a Markdown table, and its counts read back."""

from __future__ import annotations

import datetime
import re
from typing import Any

TITLE = "# What attnwidget captures: every model type of transformers"
# Why a type with attention is not reached, where somebody has looked.
REASONS = {
    "reformer": "hashed buckets, normalised by a log-sum-exp: no softmax, no interface",
    "longformer": "banded: the weights are cut into overlapping chunks before they multiply values",
    "led": "its encoder is Longformer's",
    "mobilevitv2": "weights multiply values element by element (separable attention)",
    "patchtsmixer": "a gate: a softmax over features, multiplied element by element",
    "pegasus_x": "the local half of its encoder cuts a softmax in two and multiplies each piece with other values",
    "granite_swa": "its sinks scale the output; shown as weight that goes nowhere, which gives the same output",
    "granitemoe_swa": "as granite_swa",
}


def line(row: dict[str, Any]) -> str:
    """One result on one line, for whoever watches."""
    if row["status"] != "run":
        return f"{row['type']}: not run, {row['reason'][:300]}"
    verdict = "reached" if row["reached"] else ("NOT REACHED" if row["bears"] else "no attention")
    return (
        f"{row['type']}: {verdict}, {row['mechanism']}, {row['captured']}/{row['calls']} calls, "
        f"{row['missed']} missed, error {row['error']:.1e}, changed {row['changed']:.1g}, check {row['check']}, "
        f"sharp {row['sharpness']:.2f}, {row.get('seconds')} s; {'; '.join(row['remarks'])}"
    )


def counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    """How many types were tried, ran, have attention, and are reached; how many outputs a capture changed."""
    ran = [row for row in rows if row["status"] == "run"]
    return {
        "types": len(rows),
        "ran": len(ran),
        "bearing": sum(row["bears"] for row in ran),
        "reached": sum(row["reached"] for row in ran),
        "changed": sum(row["changed"] > 0 for row in ran),
        "named": sum(bool(row["named"]) for row in ran),
    }


def head(rows: list[dict[str, Any]]) -> str:
    """Date, versions and counts."""
    import torch
    import transformers

    import attnwidget

    n = counts(rows)
    share = f"{n['reached'] / n['bearing']:.1%}" if n["bearing"] else "–"
    wrong = sum(row["status"] == "run" and _official(row) != "" for row in rows)
    return (
        f"{datetime.date.today()}, attnwidget {attnwidget.__version__}, transformers {transformers.__version__}, "
        f"torch {torch.__version__.split('+')[0]}, float32 on the CPU, small random weights.\n\n"
        f"| | model types |\n|---|---|\n"
        f"| in transformers | {n['types']} |\n"
        f"| ran | {n['ran']} |\n"
        f"| of these with attention | {n['bearing']} |\n"
        f"| of these reached: every attention call and nothing else captured, every map within 1e-5, output the same "
        f"bit for bit | {n['reached']} ({share}) |\n"
        f"| of the others, a module is called attention and computes no softmax over keys | {n['named']} |\n"
        f"| output changed by the capture | {n['changed']} |\n"
        f"| where transformers' own `output_attentions` is not what the model used, or lacks some of it | {wrong} |\n"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """The whole file."""
    rows = sorted(rows, key=lambda row: row["type"].lower())
    ran = [row for row in rows if row["status"] == "run"]
    bearing = [row for row in ran if row["bears"]]
    missing = [row for row in bearing if not row["reached"]]
    return "\n".join(
        [
            TITLE,
            "",
            "Made by `python -m tests.conformance`; do not edit.",
            "",
            head(rows),
            _EXPLAINED,
            "## Attention",
            "",
            "| type | inputs | mechanism | calls | max error | output | check | oracle | remarks |",
            "|---|---|---|---|---|---|---|---|---|",
            *(_row(row) for row in bearing),
            "",
            "## Not reached",
            "",
            *(f"- **{row['type']}**: {_why(row)}." for row in missing),
            "",
            "## No attention",
            "",
            ", ".join(row["type"] + _named(row) for row in ran if not row["bears"]) + ".",
            "",
            "## Not run",
            "",
            *(f"- {reason}: {', '.join(types)}." for reason, types in _not_run(rows).items()),
            "",
        ]
    )


_EXPLAINED = """\
How to read it. *Mechanism*: `interface` is transformers' attention interface, `sdpa` a bare
`F.scaled_dot_product_attention`, `softmax` one written in the model, `other` none of these. *Calls*: attention calls in
one run, by a count that knows nothing of attnwidget (`tests/conformance/oracle.py`); where fewer or more were captured,
captured / counted. *Max error*: over all layers, heads and entries, against the *oracle*: what transformers' own eager
function returned in a second model with the same weights (`eager`), the same tensors from `output_attentions`
(`output_attentions`), `nn.MultiheadAttention`'s own weights (`torch`), softmax(QKᵀ + mask) in float64 of the
same run (`float64`), or the result of the model's own softmax (`softmax`). *Remarks*: what transformers' own
`output_attentions=True` gives instead, found by comparing, and where the eager run is another run than the default one.
Under the default implementation (sdpa) `output_attentions` gives nothing at all; that is not repeated below.
"""
_ORACLES = {
    "eager's own return value": "eager",
    "torch's own weights": "torch",
    "closed form float64": "float64",
    "softmax result": "softmax",
}


def _row(row: dict[str, Any]) -> str:
    calls = str(row["calls"]) if row["captured"] == row["calls"] else f"{row['captured']} / {row['calls']}"
    oracle = row["oracle"]
    for long, short in _ORACLES.items():
        oracle = oracle.replace(long, short)
    error = "–" if row["missed"] == row["calls"] else ("0" if row["error"] == 0 else f"{row['error']:.0e}")
    return (
        f"| {row['type']} | {row['inputs']} | {row['mechanism']} | {calls} | {error} | "
        f"{'same' if row['changed'] == 0 else 'changed'} | {_check(row)} | {oracle} | {'; '.join(row['remarks'])} |"
    )


def _named(row: dict[str, Any]) -> str:
    return f" ({' and '.join(row['named'])})" if row["named"] else ""


def _check(row: dict[str, Any]) -> str:
    return {True: "ok", False: "**failed**", None: "–"}[row["check"]]


def _why(row: dict[str, Any]) -> str:
    if row["type"] in REASONS:
        return REASONS[row["type"]]
    if row["changed"]:
        return f"the output changes by {row['changed']:.1g}"
    if row["missed"]:
        return f"{row['missed']} of {row['calls']} calls are not captured"
    return f"the maps differ by {row['error']:.1g}"


def _official(row: dict[str, Any]) -> str:
    wrong = [remark for remark in row["remarks"] if "attentions" in remark and "shape of no call" not in remark]
    return "; ".join(wrong)


def _not_run(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Types by the kind of reason for which they did not run."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] != "run":
            found.setdefault(_kind(row["reason"].split(" ‖ ")[0]), []).append(row["type"])
    return dict(sorted(found.items()))


def _kind(reason: str) -> str:
    needs = re.search(r"requires the (\w+) library|No module named '(\w+)'", reason)
    if "NotStandalone" in reason or "missing the required" in reason or "No module named 'transformers" in reason:
        return "no model of its own"
    if needs:
        return f"needs {needs.group(1) or needs.group(2)}"
    if "TooBig" in reason or "longer than" in reason or "died" in reason or "Memory" in reason:
        return "too big for a sweep"
    if reason.startswith("ValueError: ") and re.search(r": \w*(Error|Exception)", reason[12:]):
        return "the sweep knows no inputs for it"
    return "the sweep knows no small configuration for it"


# ── reading it back ───────────────────────────────────────────────────────────────────────────────────────────────────


def stated(text: str) -> dict[str, int]:
    """The counts in the head of a table."""
    names = {
        "in transformers": "types",
        "ran": "ran",
        "of these with attention": "bearing",
        "of these reached": "reached",
    }
    found: dict[str, int] = {}
    for label, number in re.findall(r"^\| ([^|]+?) \| (\d+)", text, re.MULTILINE):
        name = names.get(label.split(":")[0])
        if name is not None:
            found[name] = int(number)
    return found


def counted(text: str) -> dict[str, int]:
    """The same counts, of the rows and lists below."""
    part = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    bearing = len(re.findall(r"^\| ", part["Attention"], re.MULTILINE)) - 1
    missing = len(re.findall(r"^- ", part["Not reached"], re.MULTILINE))
    without = len(part["No attention"].strip().rstrip(".").split(", "))
    left = sum(len(line.split(": ", 1)[1].split(", ")) for line in part["Not run"].strip().splitlines())
    return {
        "types": bearing + without + left,
        "ran": bearing + without,
        "bearing": bearing,
        "reached": bearing - missing,
    }
