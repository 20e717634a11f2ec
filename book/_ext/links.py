"""The links out of every page: the paper, its own notebook, and, where
``_config.yml`` has the address of the repository, the source, the launch
buttons and where to report a mistake.
"""

import json
from pathlib import Path

PAPER = "https://arxiv.org/abs/1909.06860"
BINDER = "https://mybinder.org"
COLAB = "https://colab.research.google.com"  # knows GitHub only


def use_address(app, config):
    """The buttons of the theme follow from the one line ``repository``."""
    options = config.html_theme_options
    address = options.get("repository_url")
    if not address:
        return
    for button in ("repository", "source", "edit_page", "issues"):
        options[f"use_{button}_button"] = True
    options["launch_buttons"] = {
        "binderhub_url": BINDER,
        "notebook_interface": "jupyterlab",
    }
    if "github.com/" in address:
        options["launch_buttons"]["colab_url"] = COLAB


def write_script(app, source, name):
    """The source again as a script: a page on file:// can save what a script
    brings, while its link to a file only shows it."""
    text = json.dumps(Path(app.srcdir, source).read_text())
    path = Path(app.outdir, "_sources", f"{name}.js")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"wdtrSave({text});")


def add_links(app, pagename, templatename, context, doctree):
    context["paper"] = PAPER
    paper = {
        "type": "link",
        "url": PAPER,
        "text": "Paper",
        "icon": "fas fa-file-alt",
        "tooltip": "The paper on arXiv",
        "label": "paper-button",
    }
    context.setdefault("header_buttons", []).insert(0, paper)
    if not doctree:
        return
    source = (
        Path(app.env.doc2path(pagename)).relative_to(app.srcdir).as_posix()
    )
    context["is_notebook"] = source.endswith(".ipynb")
    context["own_source"] = context["pathto"](
        f"_sources/{context['sourcename']}", 1
    )
    context["own_name"] = Path(source).name
    write_script(app, source, context["sourcename"])
    options = app.config.html_theme_options
    if address := (options.get("repository_url") or "").rstrip("/"):
        branch = options.get("repository_branch") or "main"
        blob = "-/blob" if "gitlab" in address else "blob"
        context["address"] = address
        context["source_url"] = f"{address}/{blob}/{branch}/{source}"


def setup(app):
    app.connect("config-inited", use_address)
    app.connect(
        "html-page-context", add_links, priority=900
    )  # after the theme's own buttons
    return {"parallel_read_safe": True, "parallel_write_safe": True}
