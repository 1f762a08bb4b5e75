"""The page's layout, and which button calls what."""

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import gradio as gr

from fastvgan.errors import UserError
from fastvgan.page import clips
from fastvgan.page.live import PERIOD, LiveRuns
from fastvgan.page.making import Making, as_message
from fastvgan.page.models import Form, Models

MOST_WAITING = 20
"""Requests that wait for their clips; further ones are refused."""
_INTRODUCTION = """
<header class="fv-header"><h1>fastvgan</h1>
<p>Short videos from a sentence, made on this machine by a small generative adversarial network.</p></header>
"""
_NEW_SEED = f"() => Math.floor(Math.random() * {clips.MOST_SEED})"
# One model computes at a time.
_COMPUTES: dict[str, Any] = {"concurrency_id": "model", "api_visibility": "private"}
_AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def build(models: Models, making: Making, runs: LiveRuns) -> gr.Blocks:
    """Build the page.

    Args:
        models: the models to choose from; the first one's form is shown.
        making: makes the clips.
        runs: the runs to watch.

    Raises:
        UserError: the first model cannot be loaded.
    """
    names = models.names()
    settings = _settings(models.form(names[0]))
    with gr.Blocks(analytics_enabled=False, title="fastvgan", fill_width=True) as page:
        gr.HTML(_INTRODUCTION)
        with gr.Row(elem_classes="fv-model"):
            model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model", filterable=False, min_width=240)
            facts = gr.HTML(**settings["facts"], elem_id="facts", min_width=240)
        with gr.Tabs():
            with gr.Tab("Generate") as generate_tab:
                parts = {"facts": facts, **_lay_out_generate(settings, model, making)}
            with gr.Tab("Interpolate") as between_tab:
                parts |= _lay_out_between(settings, model, making)
            with gr.Tab("Watch training", elem_id="watch") as watch_tab:
                timer = _lay_out_watch(runs, watch_tab)

        def show_form(name: str) -> dict[Any, Any]:
            chosen: dict[str, dict[str, Any]]
            try:
                chosen = _settings(models.form(name))
            except UserError as error:
                chosen = {"facts": {"value": clips.message(str(error))}}
            return {parts[part]: gr.update(**values) for part, values in chosen.items()}

        model.change(show_form, model, list(parts.values()), **_COMPUTES, show_progress="hidden")
        for tab in (generate_tab, between_tab):
            tab.select(lambda: gr.Timer(active=False), None, timer, **_AT_ONCE)
        # Runs may have appeared since the page was built.
        page.load(lambda: gr.Dropdown(models.names()), None, model, **_AT_ONCE)
    return page.queue(max_size=MOST_WAITING, default_concurrency_limit=1, api_open=False)


def style() -> str:
    """Return the page's CSS."""
    return files("fastvgan.page").joinpath("style.css").read_text(encoding="utf-8")


def theme() -> gr.themes.Base:
    """Return the page's theme, with the fonts of the visitor's system."""
    fonts, mono = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
    return gr.themes.Base(primary_hue="blue", neutral_hue="slate", radius_size="lg", font=fonts, font_mono=mono)


def _settings(form: Form) -> dict[str, dict[str, Any]]:
    """Return the properties that depend on the model, of each component that has some."""
    first, second = (*form.examples[:2], "", "")[:2]
    reads, is_text_only = "text" in form.follows, form.follows == ("text",)
    length = {"value": min(form.frames, clips.MOST_FRAMES), "visible": form.is_any_length}
    no_text = "" if is_text_only else "This model does not follow text alone. Choose one that does."
    return {
        "facts": {"value": clips.hint(form.facts)},
        "text": {"value": first, "visible": reads},
        "examples": {"samples": [[text] for text in form.examples], "visible": bool(form.examples)},
        "words": {"value": clips.render("words.html", words=form.words), "visible": bool(form.words)},
        "label": {
            "choices": list(form.classes),
            "value": next(iter(form.classes), None),
            "visible": "class" in form.follows,
        },
        "image": {"value": None, "visible": "image" in form.follows},
        "frames": length,
        "first": {"value": first, "visible": is_text_only},
        "second": {"value": second, "visible": is_text_only},
        "between_frames": length,
        "no_text": {"value": clips.hint(no_text), "visible": bool(no_text)},
    }


def _lay_out_generate(settings: dict[str, dict[str, Any]], model: gr.Dropdown, making: Making) -> dict[str, Any]:
    """Lay out the tab of one sentence, and return the components that depend on the model."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            text = _sentence("Sentence", "text", settings["text"])
            examples = gr.Dataset(
                components=[gr.Textbox(visible=False)], label="Examples to click", elem_id="examples",
                **settings["examples"],
            )  # fmt: skip
            words = gr.HTML(elem_id="words", **settings["words"])
            label = gr.Dropdown(label="Class", elem_id="label", **settings["label"])
            image = gr.Image(
                label="First frame", type="filepath", sources=["upload", "clipboard"], image_mode=None, height=220,
                elem_id="image", buttons=[], **settings["image"],
            )  # fmt: skip
            count = gr.Slider(1, clips.MOST_CLIPS, 4, step=1, label="Number of clips", elem_id="count")
            frames = _length("frames", settings["frames"])
            seed = _seed("seed")
            button = gr.Button("Generate", variant="primary", elem_id="make")
        with gr.Column(scale=3, min_width=300):
            result = gr.HTML(clips.hint("Clips appear here."), elem_id="result", min_height=160)
    inputs = [model, text, image, label, seed, count, frames]
    make = as_message(making.clips)
    gr.on([button.click, text.submit], make, inputs, result, **_COMPUTES)
    chosen = examples.click(lambda sample: sample[0], examples, text, **_AT_ONCE)
    chosen.then(make, inputs, result, **_COMPUTES)
    return {"text": text, "examples": examples, "words": words, "label": label, "image": image, "frames": frames}


def _lay_out_between(settings: dict[str, dict[str, Any]], model: gr.Dropdown, making: Making) -> dict[str, Any]:
    """Lay out the tab of two sentences, and return the components that depend on the model."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            no_text = gr.HTML(**settings["no_text"])
            first = _sentence("From", "first", settings["first"])
            second = _sentence("To", "second", settings["second"])
            count = gr.Slider(2, clips.MOST_CLIPS, 6, step=1, label="Number of clips", elem_id="steps")
            frames = _length("between-frames", settings["between_frames"])
            seed = _seed("between-seed")
            button = gr.Button("Generate", variant="primary", elem_id="make-between")
        with gr.Column(scale=3, min_width=300):
            hint = "Clips on the way from one sentence to the other appear here, all from the same noise."
            result = gr.HTML(clips.hint(hint), elem_id="between", min_height=160)
    inputs = [model, first, second, seed, count, frames]
    gr.on([button.click, second.submit], as_message(making.between), inputs, result, **_COMPUTES)
    return {"first": first, "second": second, "between_frames": frames, "no_text": no_text}


def _lay_out_watch(runs: LiveRuns, tab: gr.Tab) -> gr.Timer:
    """Lay out the tab of a run in training; the timer runs while the tab is open."""
    names = runs.names()
    run = gr.Dropdown(names, value=next(iter(names), None), label="Run", elem_id="run", filterable=False)
    state, body, shown = gr.HTML(elem_id="state"), gr.HTML(elem_id="live"), gr.State("")
    timer = gr.Timer(PERIOD, active=False)
    view = _viewer(runs)
    inputs, outputs = [run, shown], [state, body, shown]

    def open_tab(name: str | None) -> tuple[Any, Any]:
        names = runs.names()
        return gr.Dropdown(names, value=name if name in names else next(iter(names), None)), gr.Timer(active=True)

    tab.select(open_tab, run, [run, timer], **_AT_ONCE).then(view, inputs, outputs, **_AT_ONCE)
    run.change(view, inputs, outputs, **_AT_ONCE)
    timer.tick(view, inputs, outputs, **_AT_ONCE)
    return timer


def _viewer(runs: LiveRuns) -> Callable[[str | None, str], tuple[Any, Any, Any]]:
    """Return the function that looks at a run; it leaves the page unchanged while the run's files are."""

    def view(name: str | None, shown: str) -> tuple[Any, Any, Any]:
        try:
            found = runs.view(name)
        except UserError as error:
            return clips.message(str(error)), "", ""
        if found.stamp == shown:
            return found.state, gr.skip(), gr.skip()
        return found.state, found.body, found.stamp

    return view


def _sentence(label: str, name: str, settings: dict[str, Any]) -> gr.Textbox:
    return gr.Textbox(
        label=label, placeholder="A sentence", max_length=clips.MOST_LETTERS, lines=1, max_lines=3, elem_id=name,
        **settings,
    )  # fmt: skip


def _length(name: str, settings: dict[str, Any]) -> gr.Slider:
    return gr.Slider(1, clips.MOST_FRAMES, step=1, label="Length in frames", elem_id=name, **settings)


def _seed(name: str) -> gr.Number:
    with gr.Row(equal_height=True, elem_classes="fv-seed"):
        seed = gr.Number(0, label="Seed", precision=0, elem_id=name, scale=3)
        again = gr.Button("Another", size="md", min_width=90, scale=1, elem_id=f"another-{name}")
    again.click(None, None, seed, js=_NEW_SEED)
    return seed
