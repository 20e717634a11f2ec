// What a reader cannot see or read: letters that are too small, parts that are cut off, boxes that
// scroll and do not show it. Formulas are judged as a whole: their letters are outlines.
(smallest) => {
  const problems = new Set();
  const about = (element) =>
    `${element.tagName.toLowerCase()}.${[...element.classList].join(".")}: ${element.textContent.trim().slice(0, 50)}`;

  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.data.trim(), element = texts.currentNode.parentElement;
    if (!text || element.closest("mjx-assistive-mml, script, style, svg title, svg desc")) continue;
    let size = parseFloat(getComputedStyle(element).fontSize);
    if (element.ownerSVGElement) size *= element.getScreenCTM().d; // as it is shown
    if (size < smallest - 0.05 && element.checkVisibility({ visibilityProperty: true, opacityProperty: true }))
      problems.add(`letters of ${size.toFixed(1)} px: ${text.slice(0, 40)}`);
    if (element.matches("svg text, svg tspan")) {
      const inner = element.getBoundingClientRect(), outer = element.ownerSVGElement.getBoundingClientRect();
      const out = Math.max(outer.left - inner.left, inner.right - outer.right, outer.top - inner.top, inner.bottom - outer.bottom);
      if (inner.width && out > 1) problems.add(`letters outside their drawing: ${text}`);
    }
  }

  const hides = new Set(["hidden", "clip"]), scrolls = new Set(["auto", "scroll"]);
  for (const element of document.querySelectorAll("main *:not(mjx-container *, svg *)")) {
    const wide = element.scrollWidth - element.clientWidth, high = element.scrollHeight - element.clientHeight;
    if ((wide < 2 && high < 2) || element.clientWidth < 2) continue; // a pixel is hidden for all but readers of screens
    const { overflowX, overflowY, maskImage } = getComputedStyle(element);
    if (!element.checkVisibility()) continue;
    if ((wide > 1 && hides.has(overflowX)) || (high > 1 && hides.has(overflowY)))
      problems.add(`cut off by ${wide} and ${high} px: ${about(element)}`);
    if (wide < 2 || !scrolls.has(overflowX)) continue;
    if (!element.matches(".cut-right, .cut-left") || !maskImage.includes("gradient"))
      problems.add(`scrolls and does not fade: ${about(element)}`);
    if (element.tabIndex !== 0) problems.add(`scrolls, but not from the keyboard: ${about(element)}`);
    if (element.matches("pre, span.math")) continue; // whose edge is enough
    const hint = (element.closest("div.math") ?? element).nextElementSibling;
    if (!hint?.matches(".scroll-hint") || !hint.checkVisibility())
      problems.add(`scrolls and does not say so: ${about(element)}`);
  }
  return [...problems];
}
