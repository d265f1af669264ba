"""A run as HTML: one file that needs no network, no font and no script, and a fragment of it for notebooks.

Text from models and users is escaped, and the page's content security policy also forbids scripts and requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files

from rsd_core import Account, Decoder, Kind, Message, Result
from rsd_core.control_characters import visible
from rsd_integrations.display.reading import MARKS, Reading, Row, amount, read, thought_of

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
COLUMNS = ("calls", "computed", "reused", "generated", "discarded", "seconds", "FLOPs", "FLOPs, paper")


def to_html(
    results: Result | Sequence[Result],
    decoder: Decoder | None = None,
    title: str = "RSD trace",
    *,
    thoughts: bool = False,
) -> str:
    """A page with one or more results.

    Args:
        results: What to show; several get a table of contents.
        decoder: The decoder behind them, for the threshold and the model names.
        title: Heading of the page.
        thoughts: Whether thoughts are unfolded when the page opens.
    """
    readings = [read(result, decoder) for result in ([results] if isinstance(results, Result) else results)]
    several = len(readings) > 1
    contents = _contents(readings) if several else ""
    runs = "\n".join(_run(reading, i if several else None, thoughts) for i, reading in enumerate(readings, 1))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{_safe(title)}</title>
<style>{_css()}</style>
</head>
<body class="rsd-page">
<main class="rsd">
<h1 dir="auto">{_safe(title)}</h1>
{contents}
{runs}
</main>
</body>
</html>
"""


def fragment(reading: Reading, *, thoughts: bool = False) -> str:
    """One result for a notebook's output cell, with its style; thoughts folded unless asked for."""
    return f'<style>{_css()}</style>\n<div class="rsd rsd-cell">{_run(reading, None, thoughts)}</div>'


@cache
def _css() -> str:
    return files("rsd_integrations.display").joinpath("trace.css").read_text("utf-8")


def _safe(text: str) -> str:
    """Text for HTML: escaped, with control characters shown, since a page may be copied into a terminal."""
    return escape(visible(text, turning=False))


def _text(text: str, kind: str = "text") -> str:
    """A block of untrusted text; its direction and direction marks end with it."""
    return f'<div class="{kind}" dir="auto">{_safe(text.strip(chr(10))) or "<em>(no text)</em>"}</div>'


def _contents(readings: Sequence[Reading]) -> str:
    rows = "".join(
        f'<tr><th scope="row"><a href="#run-{i}">{i}</a></th><td>{_safe(reading.result.answer or "–")}</td>'
        f"<td>{_safe(reading.result.finish_reason)}</td><td>{len(reading.result.steps)}</td>"
        f"<td>{reading.result.target_share:.0%}</td><td>{reading.result.seconds:.2f}</td></tr>"
        for i, reading in enumerate(readings, 1)
    )
    names = ("run", "answer", "ended by", "steps", "by the target", "seconds")
    return _table("Runs", names, rows)


def _run(reading: Reading, number: int | None, thoughts: bool) -> str:
    """One run; numbered if it is one of several on a page."""
    result, h = reading.result, "h2" if number is None else "h3"
    answer = "none found" if result.answer is None else result.answer
    steps = "\n".join([_thought(reading, thoughts), *(_step(reading, row) for row in _rows(reading, "answer"))]).strip()
    prompt = "".join(_message(message) for message in result.prompt)
    head = '<article aria-label="Run">' if number is None else f'<article id="run-{number}"><h2>Run {number}</h2>'
    return f"""{head}
{f"<section><{h}>Prompt</{h}>{prompt}</section>" if prompt else ""}
<section><{h}>Steps</{h}>
{_legend(reading)}
<ol class="steps">
{steps or "<li>(no step)</li>"}
</ol></section>
<section><{h}>Answer</{h}>
<p class="answer"><strong dir="auto">{_safe(answer)}</strong>
<span class="quiet">ended by {_safe(result.finish_reason)}</span></p>
<p>{_safe(reading.summary)}</p>
{_degradations(reading)}</section>
<section><{h}>Cost</{h}>
{_ledger(reading)}
{_savings(reading)}</section>
</article>"""


def _message(message: Message) -> str:
    if message.role == "tools":
        return f"<details><summary>tools</summary>{_text(message.content)}</details>"
    thought = thought_of(message)
    folded = f'<details class="thought"><summary>thought</summary>{_text(thought)}</details>' if thought else ""
    return (
        f'<div class="message"><span class="quiet">{_safe(message.role)}</span>{folded}{_text(message.content)}</div>'
    )


def _legend(reading: Reading) -> str:
    thresholds = {kind: value for kind, value in reading.thresholds.items() if value is not None}
    told = dict.fromkeys(f"{value:.2f}" for value in thresholds.values())
    if len(told) > 1 and _rows(reading, "thought"):
        note = " The line in a bar is the threshold: {answer:.2f}, and {thought:.2f} in the thought.".format(
            **thresholds
        )
    else:
        value = thresholds.get("answer", thresholds.get("thought"))
        note = "" if value is None else f" The line in a bar is the threshold {value:.2f}."
    return (
        f'<p class="quiet"><span class="draft author">{MARKS["draft"]} draft</span> written by the drafter and '
        f'accepted, <span class="target author">{MARKS["target"]} target</span> written by the target.{note}</p>'
    )


def _rows(reading: Reading, kind: Kind) -> list[Row]:
    return [row for row in reading.rows if row.kind == kind]


def _thought(reading: Reading, unfolded: bool) -> str:
    """The steps of the thought, folded into one; empty without a thought."""
    steps = "\n".join(_step(reading, row) for row in _rows(reading, "thought"))
    if not steps:
        return ""
    return (
        f'<li><details class="thought"{" open" * unfolded}><summary>{_safe(reading.thought_summary)}</summary>'
        f'<ol class="steps">\n{steps}\n</ol></details></li>'
    )


def _step(reading: Reading, row: Row) -> str:
    step, number = row.step, f'<span class="number">{row.number}</span>'
    if step is None:  # author and reward are in the answer's row
        return f'<li class="step part"><div class="head">{number} </div>{_text(row.text)}</li>'
    threshold, rejected = reading.thresholds.get(row.kind), ""
    if row.rejected is not None:
        summary = f"{MARKS['rejected']} rejected draft, {_safe(reading.verdict(step))}"
        bar = _bar(step.reward, threshold, "draft")
        rejected = f"<details><summary>{summary} {bar}</summary>{_text(row.rejected, 'text gone')}</details>"
    reward = step.own_reward
    score = "" if reward is None else f'<span class="reward">{reward:.2f}</span>{_bar(reward, threshold)}'
    size = f'<span class="quiet">{step.size} tokens</span>' if step.size else ""
    return (
        f'<li class="step {step.author}"><div class="head">{number} '
        f'<span class="author">{MARKS[step.author]} {step.author}</span> {score} {size}</div>'
        f"{_text(row.text)}{rejected}</li>"
    )


def _bar(reward: float | None, threshold: float | None, kind: str = "") -> str:
    """A reward as a bar, with the threshold as a line in it; the number is in the text beside it."""
    if reward is None:
        return ""
    mark = "" if threshold is None else f'<i class="threshold" style="left:{100 * threshold:.1f}%"></i>'
    fill = f'<i class="fill" style="width:{100 * reward:.1f}%"></i>'
    return f'<span class="bar {kind}" aria-hidden="true">{fill}{mark}</span>'


def _degradations(reading: Reading) -> str:
    degradations = reading.result.degradations
    rows = "".join(
        f"<li>step {item.step + 1}, {_safe(item.kind)}: <bdi>{_safe(item.message)}</bdi></li>" for item in degradations
    )
    return f'<div class="warning"><strong>Degradations</strong><ul>{rows}</ul></div>' if degradations else ""


def _ledger(reading: Reading) -> str:
    rows = "".join(_account(reading, role, account) for role, account in reading.accounts.items())
    priced = reading.result.ledger.total.cost
    return _table("Ledger, in tokens", ("role", *COLUMNS, *(["cost"] if priced else [])), rows)


def _account(reading: Reading, role: str, account: Account) -> str:
    counts = (account.calls, account.computed, account.reused, account.generated, account.discarded)
    cells = [f"{count:,}" for count in counts]
    cells += [f"{account.seconds:.3f}", amount(account.flops), amount(account.flops_paper)]
    if reading.result.ledger.total.cost:
        cells.append("unknown" if account.cost is None else f"{account.cost:.6g}")
    name = reading.names.get(role)
    label = _safe(role) + (f' <span class="quiet">{_safe(name)}</span>' if name else "")
    return f'<tr><th scope="row">{label}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _savings(reading: Reading) -> str:
    if not reading.savings:
        return '<p class="quiet">Savings are unknown: a model does not report its FLOPs.</p>'
    rows = "".join(
        f'<tr><th scope="row">{_safe(saving.convention)}</th><td>{amount(saving.spent)}</td>'
        f"<td>{amount(saving.alone)}</td><td><strong>{saving.times}</strong></td></tr>"
        for saving in reading.savings
    )
    basis = reading.result.ledger.target_only_basis
    table = _table("FLOPs against the target alone", ("convention", "this run", "target alone", "that is"), rows)
    return table + (f'<p class="quiet">Target alone: {_safe(basis)}.</p>' if basis else "")


def _table(caption: str, columns: Sequence[str], rows: str) -> str:
    """A table that scrolls on its own in a narrow window, by keyboard as well."""
    head = "".join(f'<th scope="col">{_safe(column)}</th>' for column in columns)
    return (
        f'<div class="scroll" role="region" aria-label="{_safe(caption)}" tabindex="0"><table><caption>{_safe(caption)}'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
