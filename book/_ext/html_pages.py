"""The HTML pages: formulas that need no font files, and markup that screen
readers understand.
"""

import re

from docutils import nodes


def correct_markup(app, pagename, templatename, context, doctree):
    # A signature's parameters, one a line, are no definition list: there is
    # nothing they define.
    body = re.sub(
        r"<dl>\n(<dd>.*?)</dl>",
        lambda match: (
            f'<div class="sig-params">{match[1].replace("dd>", "div>")}</div>'
        ),
        context.get("body", ""),
        flags=re.DOTALL,
    )
    # A list's children are list items.
    context["body"] = body.replace('role="doc-biblioentry"', 'role="listitem"')


def tell_kinds(app, doctree, docname):
    """What the style sheet cannot see: printed sentences, which may wrap
    while columns (two spaces tell) may not; and cells that hold nothing."""
    for block in doctree.findall(nodes.literal_block):
        lines = (line.strip() for line in block.astext().splitlines())
        if "output" in block["classes"] and not any(
            "  " in line for line in lines
        ):
            block["classes"].append("sentences")
    for cell in doctree.findall(nodes.entry):
        if cell.astext().strip() in ("", "–"):
            cell["classes"].append("nothing")


def setup(app):
    # Firefox loads no fonts on file://, so formulas are SVG. Here, since
    # sphinx-mathjax-offline sets it too.
    app.config.mathjax_path = "mathjax/tex-svg.js"
    app.connect("html-page-context", correct_markup)
    app.connect("doctree-resolved", tell_kinds)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
