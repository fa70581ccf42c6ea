"""The report of a chain as one HTML file."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import storage
from pipeline.chain.plan import StageStatus
from pipeline.chain.report.content import Curve, ReportContent, ReportImage
from pipeline.chain.report.plots import line_plot
from pipeline.chain.report.style import STYLE
from pipeline.chain.summary import main_result, stage_state
from pipeline.rates import format_duration

_STATE_CLASS = {"finished": "good", "failed": "bad", "interrupted": "bad", "running": "busy"}
_NO_LOSSES = ("learning_rate", "gradient_norm", "images_per_s", "data_wait", "bad_rows", "memory")


def render_page(content: ReportContent) -> str:
    """Return the whole page."""
    title = f"{html.escape(content.name)}: results"
    sections = (
        _decision(content.outcomes.get("register")),
        _curves(content.curves),
        _classes(content.outcomes.get("evaluate", {}).get("per_class", ())),
        _images(content.images),
        _stages(content),
        _settings(content.settings),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main>"
        f"{_head(content)}{''.join(sections)}</main></body></html>\n"
    )


def _head(content: ReportContent) -> str:
    chain = content.status.chain
    # While the report is written, the chain has not ended yet as far as others can see.
    message = ""
    if chain is not None and chain.state == "failed":
        message = f'<p class="bad">{html.escape(chain.message)}</p>'
    facts = " · ".join(html.escape(fact) for fact in (content.output, content.created) if fact)
    data = [
        f"{split}: {content.outcomes[stage]['summary']}"
        for split, stage in (("training", "train_shards"), ("validation", "val_shards"))
        if content.outcomes.get(stage, {}).get("summary")
    ]
    lines = "".join(f'<p class="quiet">{html.escape(line)}</p>' for line in data)
    metrics = content.outcomes.get("evaluate", {}).get("metrics", {})
    return (
        f'<header><h1>{html.escape(content.name)}</h1><p class="quiet">{facts}</p>'
        f"{message}{lines}</header>{_metric_cards(metrics)}"
    )


def _metric_cards(metrics: Mapping[str, float]) -> str:
    shown = [
        name
        for name, value in metrics.items()
        if value >= 0 and name.endswith(("/AP", "/AP50", "/AP75", "/AR100", "/AR1000"))
    ]
    cards = "".join(
        f'<div class="card"><span class="quiet">{html.escape(name)}</span>'
        f"<b>{percent(metrics[name])}</b></div>"
        for name in shown
    )
    return f'<section><h2>Average precision</h2><div class="cards">{cards}</div></section>' * bool(
        shown
    )


def _decision(registered: Mapping[str, Any] | None) -> str:
    if registered is None:
        return ""
    name, version = registered.get("name"), registered.get("version")
    verdict = "is the champion" if registered.get("promoted") else "is not promoted"
    tone = "good" if registered.get("promoted") else "busy"
    champion = registered.get("champion")
    now = f"The champion is version {champion}." if champion else "There is no champion."
    reasons = _reasons("For", registered.get("reasons_for", ())) + _reasons(
        "Against", registered.get("reasons_against", ())
    )
    return (
        f"<section><h2>Registry</h2><p><b>{html.escape(f'models:/{name}/{version}')}</b> "
        f'<span class="{tone}">{verdict}</span>: {html.escape(str(registered.get("reason")))}</p>'
        f'{reasons}<p class="quiet">{html.escape(now)}</p></section>'
    )


def _reasons(title: str, reasons: Sequence[str]) -> str:
    if not reasons:
        return ""
    items = "".join(f"<li>{html.escape(reason)}</li>" for reason in reasons)
    return f'<p>{title}</p><ul class="reasons">{items}</ul>'


def _curves(curves: Mapping[str, Curve]) -> str:
    groups = {
        "Losses": [name for name in curves if _is_loss(name)],
        "Validation": [name for name in curves if name.startswith("val/")],
        "Learning rate": [name for name in curves if name == "train/learning_rate"],
        "Gradient norm": [name for name in curves if name == "train/gradient_norm"],
        "Images per second": [name for name in curves if name == "train/images_per_s"],
    }
    plots = [
        line_plot(title, {_short(name): curves[name] for name in names}, "step")
        for title, names in groups.items()
        if names
    ]
    if not any(plots):
        return ""
    return f'<section><h2>Training</h2><div class="plots">{"".join(plots)}</div></section>'


def _is_loss(name: str) -> bool:
    prefix, _, rest = name.partition("/")
    return prefix == "train" and not rest.startswith(_NO_LOSSES)


def _short(name: str) -> str:
    return name.removeprefix("train/").removeprefix("val/")


def _classes(per_class: Sequence[Mapping[str, Any]]) -> str:
    if not per_class:
        return ""
    kinds = ("segm/AP", "bbox/AP", "keypoints/AP")
    names = [name for name in kinds if name in per_class[0]["values"]]
    if not names:
        return ""
    main = names[0]
    ranked = sorted(per_class, key=lambda row: -row["values"].get(main, -1))
    rows = "".join(
        f'<tr><td>{html.escape(row["name"])}</td><td class="number">{row["objects"]}</td>'
        + "".join(f"<td>{_bar(row['values'].get(name, -1))}</td>" for name in names)
        + "</tr>"
        for row in ranked
    )
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    return (
        '<section><h2>Classes</h2><div class="scroll"><table><thead><tr><th>class</th>'
        f'<th class="number">objects</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        "</section>"
    )


def _bar(value: float) -> str:
    if value < 0:
        return '<span class="quiet">not measured</span>'
    return f'{percent(value)}<span class="bar" style="width:{100 * value:.1f}%"></span>'


def _images(images: Sequence[ReportImage]) -> str:
    figures = "".join(
        f'<figure><img loading="lazy" alt="Ground truth and predictions of '
        f'{html.escape(image.caption, quote=True)}" '
        f'src="data:image/jpeg;base64,{base64.b64encode(image.jpeg).decode()}">'
        f"<figcaption>{html.escape(image.caption)}</figcaption></figure>"
        for image in images
    )
    title = "<h2>Ground truth beside predictions</h2>"
    return f'<section>{title}<div class="images">{figures}</div></section>' if images else ""


def _stages(content: ReportContent) -> str:
    rows = "".join(_stage_row(each, content) for each in content.status.stages)
    return (
        '<section><h2>Stages</h2><div class="scroll"><table><thead><tr><th>stage</th>'
        '<th>state</th><th class="number">time</th><th>result</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _stage_row(each: StageStatus, content: ReportContent) -> str:
    state, note = stage_state(each, content.status)
    record = each.planned.record
    seconds = "" if record is None else format_duration(record.seconds)
    result = main_result(record.outcome) if record is not None else ""
    cell = _link(result, content.output) if state == "finished" else html.escape(note)
    log = ""
    if state in ("failed", "interrupted"):
        log = f"<br>log: {_link(each.log_url, content.output)}"
    tone = _STATE_CLASS.get(state, "quiet")
    return (
        f"<tr><td>{html.escape(each.planned.name)}</td>"
        f'<td class="{tone}">{html.escape(state)}</td><td class="number">{seconds}</td>'
        f'<td class="wide">{cell}{log}</td></tr>'
    )


def _link(url: str, output: str) -> str:
    """Return a link that also works after the run's folder has moved; others as text."""
    if url.startswith(("http://", "https://")):
        return f'<a href="{html.escape(url, quote=True)}">{html.escape(url)}</a>'
    root = f"{output.rstrip('/')}/"
    if not url.startswith(root) or storage.local_path(output) is None:
        return html.escape(url)
    below = url[len(root) :]
    return f'<a href="{html.escape(below, quote=True)}">{html.escape(below)}</a>'


def _settings(settings: str) -> str:
    return (
        "<section><details><summary>Settings</summary>"
        f"<pre>{html.escape(settings)}</pre></details></section>"
    )


def percent(value: float) -> str:
    """Format an AP in percent, as COCO does."""
    return f"{100 * value:.1f}"
