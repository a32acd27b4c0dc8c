import { bothWidths } from '../../../html/drawing.ts';
import { html, Markup } from '../../../html/markup.ts';
import { type Comparison, countsOf, failsMore, type Pair } from '../compare.ts';
import { formatBytes, formatMs, formatSpan, formatTimes } from '../figures.ts';
import type { Load, Recording } from '../recording.ts';
import { caveatsOf, nameOf, remarksOf } from '../words.ts';
import { type Bar, connectionChart, latencyChart, ratioChart } from './charts.ts';
import { STYLE } from './style.ts';

/** A page of its own: it asks for nothing, runs no script, and says so to the browser. */
export function pageOf(comparison: Comparison): string {
  const policy = "default-src 'none'; style-src 'unsafe-inline'";
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<title>Query performance before and after</title>
<style>${new Markup(STYLE)}</style>
</head>
<body>
<main>
<h1>Query performance before and after</h1>
<p class="faint">${aboutText('Before', comparison.before)}<br>${aboutText('After', comparison.after)}<br>${WARNING}</p>
${tiles(comparison)}
<ul class="notes">${caveatsOf(comparison).map((each) => html`<li>${each}</li>`)}</ul>
${faults(comparison)}
${dashboards(comparison)}
${accesses(comparison)}
${loads(comparison)}
${plans(comparison)}
${indexes(comparison)}
${unpaired(comparison)}
</main>
</body>
</html>
`.text;
}

/** What differs is named by its path, and a failure in the server's words. */
const WARNING =
  'Keys of JSON and what the server says of a failure may be values of rows: this page is to be kept as carefully as the database.';

const aboutText = (when: string, { recordedAt, server, program }: Recording): string =>
  `${when}: ${recordedAt.slice(0, 16).replace('T', ' ')} UTC, PostgreSQL ${server}, ${program}`;

function tiles(comparison: Comparison): Markup {
  const counts = countsOf(comparison);
  const promised = counts.promisesKept + counts.promisesMissed + counts.promisesNotKnown;
  const unknown = counts.promisesNotKnown === 0 ? '' : `, of ${counts.promisesNotKnown} it is not known`;
  const tile = (figure: string | number, what: string, kind = '') =>
    html`<li><strong class="${kind}">${figure}</strong>${what}</li>`;
  const none = (count: number) => (count === 0 ? 'good' : 'bad');
  return html`<ul class="tiles">
${tile(counts.compared, counts.pairs === counts.compared ? 'queries compared' : `queries, compared ${counts.pairs} times, with the other queries`)}
${tile(counts.faster, 'faster', counts.faster > 0 ? 'good' : '')}
${tile(counts.same, 'the same within noise')}
${tile(counts.slower, 'slower', none(counts.slower))}
${tile(counts.answersDiffer, comparison.otherRows.length === 0 ? 'wrong answers' : 'answers differ, not judged', none(counts.answersDiffer))}
${tile(counts.faults, 'not answered any more', none(counts.faults))}
${counts.failSometimes === 0 ? '' : tile(counts.failSometimes, 'not answered each time', 'bad')}
${counts.answersNotCompared === 0 ? '' : tile(counts.answersNotCompared, 'answers not compared', 'warn')}
${promised === 0 ? '' : tile(`${counts.promisesKept} of ${promised}`, `promises kept${unknown}`, none(counts.promisesMissed))}
</ul>`;
}

function faults({ pairs, unpaired: without, otherRows }: Comparison): Markup {
  const wrong = otherRows.length > 0 ? [] : pairs.filter(({ answerDiffers }) => answerDiffers !== null);
  const failed = without.filter(({ is }) => is === 'fault');
  const sometimes = pairs.filter(failsMore);
  if (wrong.length + failed.length + sometimes.length === 0) return html``;
  return html`<h2>What does not hold</h2><ul class="notes">
${wrong.map((pair) => html`<li><b class="bad">wrong answer</b> ${nameOf(pair)}: ${pair.answerDiffers ?? ''}</li>`)}
${failed.map(({ title, what }) => html`<li><b class="bad">not answered any more</b> ${title}: ${what}</li>`)}
${sometimes.map((pair) => html`<li><b class="bad">not answered each time</b> ${nameOf(pair)}: ${pair.after.failed?.code ?? ''}</li>`)}</ul>`;
}

const of = ({ pairs }: Comparison, kind: Pair['kind']): readonly Pair[] => pairs.filter((pair) => pair.kind === kind);

const KEY = html`<p class="key"><span class="k-before">before</span><span class="k-after">after</span> a thin line is one round</p>`;

function dashboards(comparison: Comparison): Markup {
  const pairs = of(comparison, 'dashboard');
  if (pairs.length === 0) return html``;
  const bars = pairs.map(barOf);
  return html`<h2>Dashboards</h2>
<p>Medians of the warm runs, milliseconds on a logarithmic scale, the slowest first.</p>
${KEY}
${bothWidths((width) => latencyChart(bars, width))}
${table(pairs, comparison)}`;
}

const barOf = (pair: Pair): Bar => ({
  name: nameOf(pair),
  shortName: `${pair.id.replace(/^dashboard /u, '')}${pair.isOther ? ' (other query)' : ''}`,
  note: formatTimes(pair.warm.ratio),
  before: pair.times.before,
  after: pair.times.after,
  p50: { before: pair.spreads.before.p50, after: pair.spreads.after.p50 },
});

const VERDICTS: Readonly<Record<Pair['verdict'], { readonly word: string; readonly kind: string }>> = {
  slower: { word: '▼ slower', kind: 'bad' },
  same: { word: '= same', kind: 'faint' },
  faster: { word: '▲ faster', kind: 'good' },
  'too few': { word: '? too few rounds', kind: 'warn' },
};

/** How a verdict is drawn. */
const KINDS = { slower: 'slower', same: 'same', faster: 'faster', 'too few': 'few' } as const;

function table(pairs: readonly Pair[], { after, otherRows }: Comparison): Markup {
  const isCold = after.cold.status === 'measured' && pairs.some(({ cold }) => cold !== null);
  return html`<div class="scroll"><table class="cards">
<thead><tr><th>query</th><th>became</th><th class="n">before p50 / p99</th><th class="n">after p50 / p99</th><th class="n">times as fast</th>${isCold ? html`<th class="n">cold</th>` : ''}</tr></thead>
<tbody>${pairs.map((pair) => tableRow(pair, { isCold, isJudged: otherRows.length === 0 }))}</tbody></table></div>`;
}

function tableRow(pair: Pair, { isCold, isJudged }: { readonly isCold: boolean; readonly isJudged: boolean }): Markup {
  const { verdict, spreads, warm, cold, answerDiffers } = pair;
  const { word, kind } = VERDICTS[verdict];
  const remarks = remarksOf(pair);
  const wrong =
    answerDiffers === null
      ? ''
      : html`<br><b class="bad">${isJudged ? 'wrong answer' : 'answer not judged'}</b>: ${answerDiffers}`;
  return html`<tr><td class="name">${nameOf(pair)}${wrong}${remarks.length === 0 ? '' : html`<br><span class="faint">${remarks.join('; ')}</span>`}</td>
<td class="${kind}" data-is="became">${word}</td><td class="n" data-is="before p50 / p99">${formatMs(spreads.before.p50)} / ${formatMs(spreads.before.p99)}</td>
<td class="n" data-is="after p50 / p99">${formatMs(spreads.after.p50)} / ${formatMs(spreads.after.p99)}</td>
<td class="n" data-is="times as fast"><b>${formatTimes(warm.ratio)}</b><br><span class="faint">${formatSpan(warm)}</span></td>
${isCold ? html`<td class="n" data-is="cold, times as fast">${cold === null ? '' : formatTimes(cold.ratio)}</td>` : ''}</tr>`;
}

function accesses(comparison: Comparison): Markup {
  const pairs = of(comparison, 'access');
  if (pairs.length === 0) return html``;
  const isTold = ({ verdict, answerDiffers }: Pair) => verdict !== 'same' || answerDiffers !== null;
  const told = pairs.filter(isTold);
  const rest = pairs.filter((pair) => !isTold(pair));
  const outcomes = pairs.map(({ warm, verdict }) => ({ ratio: warm.ratio, kind: KINDS[verdict] }));
  return html`<h2>The application's accesses</h2>
<p>${pairs.length} accesses, each as the callers that it has: how many became how many times as fast, by their medians.</p>
<p class="key"><span class="k-bad">slower</span><span class="k-before">the same within noise</span><span class="k-good">faster</span><span class="k-few">too few rounds to say</span></p>
${bothWidths((width) => ratioChart(outcomes, width))}
<h3>${told.length} that became slower or faster, had too few rounds to say, or answer otherwise</h3>
${told.length === 0 ? html`<p>None.</p>` : table(told, comparison)}
${rest.length === 0 ? '' : html`<details><summary>the other ${rest.length}</summary>${table(rest, comparison)}</details>`}`;
}

function loads({ load }: Comparison): Markup {
  if (load.length === 0) return html``;
  return html`<h2>Connections under load</h2>
${load.map(({ way, before, after }) => {
  const highest = Math.max(
    ...[before, after].flatMap((each) =>
      (each?.samples ?? []).map(({ open, waiting }) => Math.max(open, waiting ?? 0)),
    ),
    1,
  );
  return html`<h3>${way === 'direct' ? 'Directly, by a pool of the application' : 'Through the pooler, by transaction'}</h3>
${[['Before', before] as const, ['After', after] as const].map(([when, each]) => (each === null ? html`<p class="faint">${when}: not measured</p>` : loadPart(when, each, highest)))}`;
})}`;
}

function loadPart(when: string, load: Load, highest: number): Markup {
  const { clients, seconds, transactions, waitMs, queryMs, connections, errors, afterwards, checks, notes } = load;
  const failed = errors.reduce((sum, { count }) => sum + count, 0);
  return html`<p><b>${when}</b>: ${clients} clients for ${Math.round(seconds)} s, ${Math.round(transactions / seconds)} transactions/s</p>
<p class="key"><span class="k-before">connections open</span><span class="k-after">at work</span><span class="k-wait">clients waiting</span></p>
${bothWidths((width) => connectionChart(load.samples, { low: 0, high: highest }, width))}
<div class="scroll"><table><thead><tr><th></th><th class="n">p50</th><th class="n">p99</th><th class="n">most</th></tr></thead><tbody>
<tr><td>until a connection was there</td>${[waitMs.p50, waitMs.p99, waitMs.max].map((ms) => html`<td class="n">${formatMs(ms)}</td>`)}</tr>
<tr><td>until the answer was there</td>${[queryMs.p50, queryMs.p99, queryMs.max].map((ms) => html`<td class="n">${formatMs(ms)}</td>`)}</tr></tbody></table></div>
<ul class="notes"><li>${connections} connections to the server in all; afterwards ${afterwards.open} open, ${afterwards.idleInTransaction} idle in a transaction</li>
<li class="${failed === 0 ? '' : 'bad'}">${failed} errors${errors.map(({ code, message, count }) => html`; ${count} times ${code}: ${message}`)}</li>
${checks.map(({ what, holds, detail }) => html`<li><b class="${holds ? 'good' : 'bad'}">${holds ? 'works' : 'does not work'}</b> ${what}: ${detail}</li>`)}
${notes.map((note) => html`<li>${note}</li>`)}</ul>`;
}

function plans(comparison: Comparison): Markup {
  const changed = of(comparison, 'dashboard').filter(({ planChange }) => planChange !== null);
  const others = of(comparison, 'access').filter(
    ({ planChange, verdict }) => planChange !== null && verdict === 'slower',
  );
  if (changed.length + others.length === 0) return html``;
  return html`<h2>Plans that changed</h2>${[...changed, ...others].map(planPart)}`;
}

function planPart(pair: Pair): Markup {
  const { planChange, before, after } = pair;
  const pages = [before, after].map(({ plan }) => `${plan?.hit ?? 0} pages in memory, ${plan?.read ?? 0} read`);
  return html`<details><summary>${nameOf(pair)} <span class="faint">${pages.join(' → ')}</span></summary>
<pre>${(planChange?.before ?? []).map(
    (each) => html`<span class="minus">- ${each}</span>
`,
  )}${(planChange?.after ?? []).map(
    (each) => html`<span class="plus">+ ${each}</span>
`,
  )}</pre>
<pre>${after.sql}</pre></details>`;
}

function indexes({ indexes: { usedBefore, usedAfter, neverUsed } }: Comparison): Markup {
  const list = (title: string, names: readonly string[]) =>
    names.length === 0
      ? ''
      : html`<h3>${title}</h3><ul class="notes">${names.map((name) => html`<li>${name}</li>`)}</ul>`;
  const bytes = neverUsed.reduce((sum, each) => sum + each.bytes, 0);
  return html`<h2>Indexes</h2>
${list('Used now, and not before', usedAfter)}${list('Used before, and not now', usedBefore)}
<p>${neverUsed.length} indexes of the tables that were read were never used, by anybody, since the server began to count: ${formatBytes(bytes)}.</p>
${neverUsed.length === 0 ? '' : html`<details><summary>which</summary><div class="scroll"><table><tbody>${neverUsed.map((each) => html`<tr><td class="name">${each.table}</td><td class="name">${each.index}</td><td class="n">${formatBytes(each.bytes)}</td></tr>`)}</tbody></table></div></details>`}`;
}

function unpaired({ unpaired: all }: Comparison): Markup {
  const notes = all.filter(({ is }) => is === 'note');
  if (notes.length === 0) return html``;
  return html`<h2>What was not timed</h2><details${notes.length <= 12 ? html` open` : ''}><summary>${notes.length} queries and accesses, and why</summary>
<ul class="notes">${notes.map(({ title, what }) => html`<li>${title}: <span class="faint">${what}</span></li>`)}</ul></details>`;
}
