import { THEME } from '../html/theme.ts';

export const PAPERS = ['a4', 'letter'] as const;
export type Paper = (typeof PAPERS)[number];

/**
 * Light and dark, on a phone and on paper; nothing is fetched. On paper a table goes on under its own heads, and figures that are very
 * long are set smaller, and broken before they are cut off.
 * @param print.paper whose size it is printed on; whoever prints says so, when left out
 * @param print.footer what stands at the foot of each page of paper: letters, figures, spaces and commas alone
 */
export const styleOf = ({ footer, paper }: { readonly footer: string; readonly paper: Paper | undefined }): string => `
${THEME}* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 8px; border-top: 1px solid var(--rule); padding-top: 20px; }
h3 { font-size: 15px; margin: 22px 0 4px; }
p { margin: 6px 0; max-width: 80ch; overflow-wrap: anywhere; }
a { color: var(--after); }
.faint { color: var(--faint); }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--wait); }
.verdict { border: 2px solid currentcolor; border-radius: 10px; padding: 12px 16px; margin: 14px 0; }
.verdict strong { font-size: 20px; line-height: 1.3; } .verdict p, .verdict li { color: var(--ink); }
.badge { display: inline-block; border: 1px solid currentcolor; border-radius: 999px; padding: 0 8px; font-size: 13px; white-space: nowrap; }
ul.notes { padding-left: 18px; margin: 8px 0; } ul.notes li { overflow-wrap: anywhere; }
.facts { margin: 12px 0; }
.facts > div { display: grid; grid-template-columns: minmax(9em, 14em) minmax(0, 1fr); gap: 4px 16px; padding: 4px 0; border-bottom: 1px solid var(--rule); }
.facts dt { color: var(--faint); } .facts dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
caption { text-align: left; font-weight: 600; padding: 14px 0 2px; }
th, td { text-align: left; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--rule); vertical-align: top; overflow-wrap: anywhere; }
th:last-child, td:last-child { padding-right: 0; }
th { font-weight: 600; color: var(--faint); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
tr.total td { font-weight: 600; border-top: 2px solid var(--rule); }
table.long { font-size: 12px; } table.longer { font-size: 10.5px; } table.longest { font-size: 9px; } table.longest td.n { overflow-wrap: anywhere; }
code, pre { font: 12.5px/1.45 ui-monospace, monospace; } code { overflow-wrap: anywhere; user-select: all; }
pre { background: var(--card); border-radius: 8px; padding: 10px 12px; white-space: pre-wrap; overflow-wrap: anywhere; margin: 6px 0; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; margin: 4px 0 12px; }
svg text { fill: var(--ink); } svg .tick { fill: var(--faint); } svg .value { font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--rule); stroke-width: 1; } svg .axis { stroke: var(--faint); } svg .bar { fill: var(--after); } svg .credit { fill: var(--wait); }
.narrow { display: none; }
@media screen and (max-width: 760px) { .wide { display: none; } .narrow { display: block; } main { padding: 16px 14px 48px; } h1 { font-size: 22px; }
  .facts > div { grid-template-columns: minmax(0, 1fr); }
  .cards, .cards tbody, .cards tr, .cards caption { display: block; } .cards thead { position: absolute; left: -9999px; }
  .cards tr { border-bottom: 1px solid var(--rule); padding: 8px 0; }
  .cards td { display: flex; justify-content: space-between; gap: 12px; border: 0; padding: 2px 0; text-align: right; font-size: 14px; overflow-wrap: anywhere; }
  .cards td > * { min-width: 0; } .cards td::before { content: attr(data-is); color: var(--faint); text-align: left; } }
@page { ${paper === undefined ? '' : `size: ${paper === 'a4' ? 'A4' : 'letter'}; `}margin: 15mm 13mm 17mm; @bottom-left { content: "${footer}"; font: 8pt system-ui, sans-serif; color: #444; } @bottom-right { content: "page " counter(page) " of " counter(pages); font: 8pt system-ui, sans-serif; color: #444; } }
@media print { :root { --page: #fff; --ink: #000; --faint: #444; --rule: #bbb; --card: #f3f3f3; } body { font-size: 9.5pt; } main { max-width: none; padding: 0; }
  h1 { font-size: 17pt; } h2 { font-size: 13pt; margin: 20pt 0 4pt; padding-top: 8pt; } h3 { font-size: 10.5pt; margin: 12pt 0 2pt; } .verdict strong { font-size: 13pt; }
  table { font-size: 8.5pt; } table.long { font-size: 7.5pt; } table.longer { font-size: 6.5pt; } table.longest { font-size: 5.5pt; } th, td { padding: 2.5pt 7pt 2.5pt 0; }
  code, pre { font-size: 7.5pt; } pre { border: 1px solid var(--rule); }
  thead { display: table-header-group; } tr, svg, .verdict, .facts > div, .whole { break-inside: avoid; } h2, h3, caption, .key { break-after: avoid; }
  .bar, .verdict, pre { print-color-adjust: exact; } a { color: inherit; text-decoration: none; } }
`;
