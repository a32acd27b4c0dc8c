// Looked at from inside a page, before any script of its own runs. JavaScript, for there are no types of a browser here.
const shifts = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) shifts.push(entry.value);
}).observe({ type: 'layout-shift', buffered: true });

globalThis.looked = {
  /** What reaches beyond the window's right edge. */
  tooWide() {
    const most = document.documentElement.clientWidth;
    const reaches = [...document.querySelectorAll('body *')].filter((element) => {
      const { right, width } = element.getBoundingClientRect();
      return width > 0 && right > most + 1 && element.closest('.skip, thead, svg, datalist') === null;
    });
    return {
      scrolls: document.documentElement.scrollWidth > most,
      reaches: reaches.map((element) => element.outerHTML.slice(0, 120)),
    };
  },
  /** Cumulative layout shift, as browsers measure it. */
  shift: () => shifts.reduce((sum, each) => sum + each, 0),
  async axe() {
    const { violations } = await globalThis.axe.run();
    return violations.map(({ id, help, nodes }) => ({ id, help, nodes: nodes.map(({ html }) => html.slice(0, 200)) }));
  },
};
