"""Put right two pieces of Sphinx's HTML that mislead screen readers (axe calls them serious)."""

import re


def correct(app, pagename, templatename, context, doctree):
    # A signature's parameters, one a line, are no definition list: there is nothing they define.
    body = re.sub(
        r"<dl>\n(<dd>.*?)</dl>",
        lambda match: f'<div class="sig-params">{match[1].replace("dd>", "div>")}</div>',
        context.get("body", ""),
        flags=re.DOTALL,
    )
    # A list's children are list items.
    context["body"] = body.replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app):
    app.connect("html-page-context", correct)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
