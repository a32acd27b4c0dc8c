import { THEME } from '../../../html/theme.ts';

/** Light and dark, on a phone and on paper; nothing is fetched. */
export const STYLE = `
${THEME}* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 40px 0 8px; border-top: 1px solid var(--rule); padding-top: 20px; }
h3 { font-size: 15px; margin: 20px 0 4px; }
p { margin: 6px 0; }
.faint { color: var(--faint); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 10px; margin: 18px 0; padding: 0; list-style: none; }
.tiles li { background: var(--card); border-radius: 8px; padding: 10px 12px; }
.tiles strong { display: block; font-size: 24px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--wait); }
ul.notes { padding-left: 18px; margin: 8px 0; } ul.notes li { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 6px 10px 6px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; color: var(--faint); white-space: nowrap; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.name { min-width: 180px; overflow-wrap: anywhere; }
td .faint { font-size: 13px; }
pre { background: var(--card); border-radius: 8px; padding: 10px 12px; overflow-x: auto; font: 12.5px/1.45 ui-monospace, monospace; margin: 6px 0; }
pre .minus { color: var(--faint); } pre .plus { color: var(--after); }
details { margin: 8px 0; } summary { cursor: pointer; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .tick { fill: var(--faint); } svg .ratio { font-weight: 600; } svg .value { font-size: 11px; }
svg .grid { stroke: var(--rule); stroke-width: 1; } svg .axis { stroke: var(--faint); }
svg .before { fill: var(--before); opacity: 0.75; } svg .after { fill: var(--after); opacity: 0.85; }
svg .run { stroke: var(--ink); stroke-width: 1; opacity: 0.35; }
svg .slower { fill: var(--bad); } svg .same { fill: var(--before); } svg .faster { fill: var(--good); } svg .few { fill: var(--wait); }
svg .series { fill: none; stroke-width: 2; } svg .open { stroke: var(--before); } svg .active { stroke: var(--after); } svg .waiting { stroke: var(--wait); }
.key { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 4px 0 10px; font-size: 13px; color: var(--faint); }
.key span::before { content: ''; display: inline-block; width: 12px; height: 12px; border-radius: 2px; margin-right: 6px; vertical-align: -1px; background: var(--c); }
.k-before { --c: var(--before); } .k-after { --c: var(--after); } .k-wait { --c: var(--wait); } .k-bad { --c: var(--bad); } .k-good { --c: var(--good); } .k-few { --c: var(--wait); }
.narrow { display: none; }
@media (max-width: 620px) { .wide { display: none; } .narrow { display: block; } main { padding: 16px 14px 48px; } h1 { font-size: 22px; }
  .cards, .cards tbody, .cards tr { display: block; } .cards thead { display: none; } .cards tr { border-bottom: 1px solid var(--rule); padding: 8px 0; }
  .cards td { display: block; border: 0; padding: 2px 0; text-align: left; }
  .cards td[data-is] { display: flex; justify-content: space-between; gap: 12px; } .cards td[data-is]::before { content: attr(data-is); color: var(--faint); }
  .cards td br { display: none; } .cards td.name br { display: inline; } .cards td b + span { margin-left: 0; } }
@media print { :root { --page: #fff; --ink: #000; --card: #f3f3f3; --rule: #bbb; --faint: #444; } body { font-size: 12px; } main { max-width: none; padding: 0; }
  .wide { display: block; } .narrow { display: none; } svg, tr, pre { break-inside: avoid; } h2, h3 { break-after: avoid; } .scroll { overflow: visible; } pre { white-space: pre-wrap; } }
`;
