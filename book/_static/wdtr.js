// What scrolls sideways shows it and is reached from the keyboard; symbols explain themselves;
// a page saves its source; what is folded opens for print; arrows have names.
(() => {
  const BOXES = "main pre, main .pst-scrollable-table-container, main .cell_output .output, main .picture, main div.math mjx-container, main span.wide";
  const SAID = ".pst-scrollable-table-container, mjx-container, .output, .picture"; // code shows it by its edge alone
  const hints = new WeakMap();

  const place = (box) => {
    const rest = box.scrollWidth - box.clientWidth - box.scrollLeft;
    box.classList.toggle("cut-left", box.scrollLeft > 1);
    box.classList.toggle("cut-right", rest > 1);
  };
  const mark = (box) => {
    const scrolls = box.clientWidth > 0 && box.scrollWidth > box.clientWidth + 1;
    if (scrolls) box.tabIndex = 0;
    else if (box.classList.contains("scrolls")) box.removeAttribute("tabindex");
    box.classList.toggle("scrolls", scrolls);
    place(box);
    let hint = hints.get(box);
    if (scrolls && !hint && box.matches(SAID)) {
      hint = document.createElement("span");
      hint.className = "scroll-hint";
      hint.textContent = "scrolls sideways →";
      hints.set(box, hint);
      (box.closest("div.math") ?? box).after(hint);
      box.addEventListener("scroll", () => place(box), { passive: true });
    } else if (scrolls && !hints.has(box)) {
      hints.set(box, null);
      box.addEventListener("scroll", () => place(box), { passive: true });
    }
    if (hint) hint.hidden = !scrolls;
  };
  // A formula in a line scrolls where it is wider than the text.
  const widen = (formula) => {
    const block = formula.closest("p, li, td, th, dd, dt, figcaption, h1, h2, h3, summary, div");
    const drawn = formula.querySelector("mjx-container");
    if (block && drawn && block.clientWidth)
      formula.classList.toggle("wide", drawn.getBoundingClientRect().width > block.clientWidth);
  };
  const update = () => {
    document.querySelectorAll("main span.math").forEach(widen);
    document.querySelectorAll(BOXES).forEach(mark);
  };

  // A table wider than the text takes the margin, where there is one.
  for (const box of document.querySelectorAll("main .pst-scrollable-table-container"))
    if (box.scrollWidth > box.clientWidth + 1 && !box.closest("details, .admonition, .sd-card"))
      (box.closest(".cell_output") ?? box).classList.add("full-width");

  update();
  new ResizeObserver(update).observe(document.querySelector("main"));
  addEventListener("click", () => setTimeout(update));
  addEventListener("toggle", update, true);
  addEventListener("load", () => {
    update();
    window.MathJax?.startup?.promise?.then(() => requestAnimationFrame(update));
  });

  // --- symbols: the title, at once and also under a finger ---
  const tip = document.createElement("div");
  tip.className = "symbol-tip";
  tip.hidden = true;
  document.body.append(tip);
  let shown = null, height = 0; // and where it was
  const hide = () => {
    if (shown) shown.title = tip.textContent; // the browser's own would come on top of it
    shown = null;
    tip.hidden = true;
  };
  document.addEventListener("pointerover", (event) => {
    const symbol = event.target.closest?.(".symbol");
    if (symbol === shown) return;
    hide();
    if (!symbol) return;
    shown = symbol;
    tip.textContent = symbol.title;
    symbol.removeAttribute("title");
    tip.hidden = false;
    height = symbol.getBoundingClientRect().top;
    const at = symbol.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const below = at.bottom + 6 + size.height < innerHeight;
    tip.style.top = `${below ? at.bottom + 6 : Math.max(4, at.top - size.height - 6)}px`;
    tip.style.left = `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - size.width - 8))}px`;
  });
  const left = () => shown && Math.abs(shown.getBoundingClientRect().top - height) > 2;
  addEventListener("scroll", () => left() && hide(), { passive: true, capture: true });
  addEventListener("keydown", (event) => event.key === "Escape" && hide());

  // --- a page's source is saved, also from file://, where browsers only show what a link leads to ---
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href*='_sources/']");
    if (!link || location.protocol !== "file:") return;
    event.preventDefault();
    window.wdtrSave = (text) => {
      const save = document.createElement("a");
      save.href = URL.createObjectURL(new Blob([text]));
      save.download = decodeURIComponent(link.pathname.split("/").pop());
      save.click();
    };
    document.head.append(Object.assign(document.createElement("script"), { src: link.href + ".js" }));
  });

  // --- the arrow beside a chapter with sections says what it opens ---
  document.querySelectorAll("nav li.has-children > details > summary").forEach((arrow) => {
    arrow.setAttribute("aria-label", `sections of ${arrow.closest("li").querySelector("a").textContent.trim()}`);
  });

  // --- print: folded texts, answers and outputs open; folded code keeps its name ---
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("main details:not([open]):is(:not(.above-input), :has(.cell_output))")];
    opened.forEach((details) => (details.open = true));
  });
  addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)));
})();
