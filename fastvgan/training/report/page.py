"""The page of a run's report, as a Jinja template; `fastvgan.training.report.collect` fills it in, with autoescape."""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ name }}</title>
<style>
:root { color-scheme: light dark; --ink: #1d2025; --soft: #5a616b; --line: #d9dce1; --paper: #fff; --card: #f6f7f9;
  --c0: #2f7bf0; --c1: #d9620b; --c2: #16936a; --c3: #a05cd0; --bad: #c0262d; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #a0a7b1; --line: #363b43; --paper: #15171a; --card: #1d2025; --bad: #ff7b7b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem clamp(.75rem, 3vw, 2rem) 3rem; max-width: 80rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; margin: .5rem 0 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 .25rem; }
p { margin: .5rem 0; }
.soft, .gap, figcaption, .remark { color: var(--soft); font-size: .9rem; }
.gap { font-style: italic; }
.facts { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 1rem 0; }
.facts dt { color: var(--soft); font-size: .85rem; }
.facts dd { margin: 0; font-weight: 600; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)); }
.card { margin: 0; padding: .75rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  min-width: 0; }
.card img { display: block; width: 100%; height: auto; }
.card img.moving { width: auto; max-width: 100%; margin: 0 auto; }
.keys { display: flex; flex-wrap: wrap; gap: 0 1rem; }
.key::before { content: ""; display: inline-block; width: .9em; height: .25em; margin-right: .35em;
  vertical-align: middle; background: currentColor; border-radius: 1px; }
.key b { color: var(--ink); font-weight: 600; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); }
.scroll { overflow: auto; max-height: 24rem; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0 1rem; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { text-align: left; vertical-align: top; padding: .2rem .75rem .2rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { font-weight: 400; color: var(--soft); overflow-wrap: break-word; }
td { min-width: 4rem; font-variant-numeric: tabular-nums; }
.best { font-weight: 700; color: var(--c2); }
details { margin: .5rem 0; }
summary { cursor: pointer; }
.columns { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 0 2rem;
  align-items: start; }
pre { margin: .5rem 0; padding: .75rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  font-size: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 30rem; overflow-y: auto; }
pre.table { white-space: pre; overflow: auto; overflow-wrap: normal; }
.error { color: var(--bad); }
</style>
</head>
<body>
{% macro panels(found) %}
<div class="grid">
{% for panel in found %}
<figure class="card">
<h3>{{ panel.title }}</h3>
{% if panel.picture %}
<img src="{{ panel.picture }}" alt="{{ panel.title }} over steps" width="520" height="270">
{% else %}
<p class="gap">{{ panel.gap }}</p>
{% endif %}
<figcaption class="keys">
{% for line in panel.lines %}
<span class="key c{{ loop.index0 % 4 }}">{{ line.name }} <b>{{ line.last }}</b></span>
{% endfor %}
</figcaption>
{% for remark in panel.remarks %}
<p class="remark">{{ remark }}</p>
{% endfor %}
</figure>
{% endfor %}
</div>
{% endmacro %}
{% macro still(step, picture) %}
<figure class="card">
<img src="{{ picture }}" alt="samples of step {{ step }}">
<figcaption>step {{ step }}</figcaption>
</figure>
{% endmacro %}
{% macro tables(label, part) %}
{% if part.gap %}
<p class="gap">{{ part.gap }}</p>
{% else %}
<details>
<summary>{{ label }}</summary>
<div class="columns">
{% for caption, rows in part.content %}
<table>
<caption>{{ caption }}</caption>
<tbody>
{% for key, value in rows %}
<tr><th scope="row">{{ key }}</th><td>{{ value }}</td></tr>
{% endfor %}
</tbody>
</table>
{% endfor %}
</div>
</details>
{% endif %}
{% endmacro %}
<header>
<h1>{{ name }}</h1>
{% if told %}
<p>{{ told }}</p>
{% endif %}
<dl class="facts">
{% for label, value in facts %}
<div><dt>{{ label }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl>
</header>
<main>
<section>
<h2>What was trained, and with what</h2>
{{ tables("Settings (config.yaml)", config) }}
{{ tables("Environment (env.json)", environment) }}
</section>
<section>
<h2>Samples</h2>
{% if samples.gap %}
<p class="gap">{{ samples.gap }}</p>
{% else %}
<p class="soft">Of step {{ samples.content.last }}: moving, and with a row a clip and time to the right.</p>
<div class="grid wide">
{% if samples.content.moving %}
<figure class="card">
<img class="moving" src="{{ samples.content.moving }}" alt="samples of step {{ samples.content.last }}, moving">
</figure>
{% endif %}
{% for step, picture in samples.content.stills if step == samples.content.last %}
{{ still(step, picture) }}
{% endfor %}
</div>
{% for remark in samples.content.remarks %}
<p class="gap">{{ remark }}</p>
{% endfor %}
{% endif %}
</section>
<section>
<h2>Evaluation</h2>
{% if evaluation.gap %}
<p class="gap">{{ evaluation.gap }}</p>
{% else %}
{{ panels(evaluation.content.panels) }}
<div class="scroll">
<table>
<thead>
<tr><th scope="col">step</th>
{% for column in evaluation.content.names %}<th scope="col">{{ column }}</th>
{% endfor %}</tr>
</thead>
<tbody>
{% for step, cells in evaluation.content.rows %}
<tr><td>{{ step }}</td>
{% for text, best in cells %}<td{% if best %} class="best"{% endif %}>{{ text }}{% if best %} best{% endif %}</td>
{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% for remark in evaluation.content.remarks %}
<p class="gap">{{ remark }}</p>
{% endfor %}
{% endif %}
</section>
<section>
<h2>Curves</h2>
{% if metrics.gap %}
<p class="gap">{{ metrics.gap }}</p>
{% else %}
{{ panels(metrics.content.panels) }}
{% for remark in metrics.content.remarks %}
<p class="gap">{{ remark }}</p>
{% endfor %}
{% endif %}
</section>
{% if samples.content and samples.content.stills | length > 1 %}
<section>
<h2>Samples over time</h2>
<p class="soft">Of the same noise and conditions as those above, on the way there.</p>
<div class="grid wide">
{% for step, picture in samples.content.stills if step != samples.content.last %}
{{ still(step, picture) }}
{% endfor %}
</div>
</section>
{% endif %}
{% if profile %}
<section>
<h2>Profile</h2>
<details>
<summary>Where the time of a step goes (profile/table.txt)</summary>
<pre class="table">{{ profile }}</pre>
</details>
</section>
{% endif %}
<section>
<h2>Warnings and errors</h2>
{% if log.gap %}
<p class="gap">{{ log.gap }}</p>
{% else %}
{% if log.content.left_out %}
<p class="gap">The last {{ log.content.lines | length }}; {{ log.content.left_out }} earlier ones are in log.txt.</p>
{% endif %}
<pre>{% for line, bad in log.content.lines %}<span{% if bad %} class="error"{% endif %}>{{ line }}</span>
{% endfor %}</pre>
{% endif %}
</section>
</main>
</body>
</html>
"""
