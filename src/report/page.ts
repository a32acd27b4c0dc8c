import { createHash } from 'node:crypto';
import { html, Markup } from '../html/markup.ts';
import { formatCount, formatInstant, formatMoney, formatSpan, type View } from '../html/view.ts';
import type { Instant } from '../ledger/instants.ts';
import { bookPart, chartPart, escrowPart, suspensePart, turnoverPart } from './figures-part.ts';
import { periodName } from './period.ts';
import { certificatePart, verificationPart } from './proof-part.ts';
import { brokenSums, holds, type Report } from './report.ts';
import { type Paper, styleOf } from './style.ts';

/**
 * The report as one page of its own: it asks for nothing, runs no script, and says so to the browser.
 * @param paper that it is printed on; whoever prints says so, when left out
 */
export function pageOf(report: Report, view: View, paper?: Paper): string {
  const { book, period, standing } = report;
  const name = `${book.name}: ${periodName(period.asked, view.locale)}`;
  const status = standing === 'closed' ? 'final' : 'provisional';
  const style = styleOf({ footer: `book ${book.bookId}, ${period.asked.text}, ${status}`, paper });
  const policy = `default-src 'none'; style-src 'sha256-${createHash('sha256').update(style).digest('base64')}'; base-uri 'none'; form-action 'none'`;
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<title>${name}</title>
<style>${new Markup(style)}</style>
</head>
<body>
<main>
<h1>${name}</h1>
${verdictPart(report, view)}
${standingPart(report, view)}
${factsPart(report, view)}
${bookPart(report, view)}
${chartPart(report, view)}
${escrowPart(report, view)}
${suspensePart(report, view)}
${certificatePart(report, view)}
${verificationPart(report, view)}
${turnoverPart(report, view)}
${READING}
</main>
</body>
</html>
`.text;
}

function verdictPart(report: Report, view: View): Markup {
  const { verified, figures, certificates } = report;
  const verdict = holds(report);
  const broken = brokenSums(figures).map(
    ({ what, ...amount }) =>
      html`<li>${formatMoney(amount, view)}: so much ${WHAT_IS_BROKEN[what]}, and it must be nothing.</li>`,
  );
  const unlike = certificates.flatMap(({ until, differences }) =>
    (differences ?? []).map(
      (difference) =>
        html`<li>The certificate of the period that ended ${instantOf(until, view)} does not agree: ${difference}.</li>`,
    ),
  );
  if (verdict === false) {
    return html`<div class="verdict bad"><strong>No: the books do not balance.</strong><ul class="notes">${broken}${unlike}${foundText(report)}</ul>
<p>What to do: <code>liventix books verify</code>, and follow what it names; post nothing by hand before.</p></div>`;
  }
  if (verdict === null) {
    return html`<div class="verdict warn"><strong>Every currency sums to zero; not everything could be verified.</strong><p>${proofText(report, view)}</p></div>`;
  }
  if (verified.how === 'not') {
    return html`<div class="verdict warn"><strong>Every currency sums to zero, and that is all that is known.</strong><p>${proofText(report, view)}</p></div>`;
  }
  return html`<div class="verdict good"><strong>Yes: the books balance.</strong><p>${proofText(report, view)}</p></div>`;
}

const WHAT_IS_BROKEN = {
  opening: 'is the sum of all opening balances',
  movements: 'differ the debits from the credits',
  closing: 'is the sum of all closing balances',
} as const;

const foundText = ({ verified }: Report): Markup | string => {
  const isFound =
    (verified.how === 'now' && verified.verification.balance === false) ||
    (verified.how === 'recorded' && verified.recorded.state === 'differs');
  return isFound ? html`<li>The verification found what does not hold: see below.</li>` : '';
};

function proofText({ verified }: Report, view: View): Markup {
  if (verified.how === 'not') {
    return html`Nobody verified the books for this report: that would recompute every balance from the log. To do so: <code>liventix books verify</code>`;
  }
  if (verified.how === 'now') {
    const { checks, skipped } = verified.verification;
    return html`Every currency sums to zero, and all that the ledger promises of this book was recomputed in the same snapshot: ${formatCount(checks.length, view)} checks, ${skipped.length === 0 ? 'all of which hold' : `of which those that were made hold; ${formatCount(skipped.length, view)} could not be made`}.`;
  }
  const { recorded, eventsSince } = verified;
  const since =
    eventsSince === 0n
      ? 'Nothing was recorded since'
      : `Up to ${formatCount(eventsSince, view)} events were recorded since, which it does not speak of`;
  return html`Every currency sums to zero. All books were last verified as a whole ${instantOf(recorded.begunAt, view)}, by verification ${recorded.verificationId.toString()}. ${since}.`;
}

const instantOf = (at: Instant | Date, view: View): Markup =>
  html`<time datetime="${at instanceof Date ? at.toISOString() : at}">${formatInstant(at, view)}</time>`;

function standingPart({ standing, book, period, made, figures }: Report, view: View): Markup {
  const nothing =
    figures.lastPosition === null
      ? html`<p>Nothing in this book is effective before its end: it lies before the book’s first entry.</p>`
      : figures.entries === 0n
        ? html`<p>Nothing moved in it: no entry of this book is effective in this period.</p>`
        : '';
  if (standing === 'closed') {
    return html`<div class="verdict good"><strong>Final: the period is closed.</strong>
<p>The book is closed until ${instantOf(book.closedUntil ?? period.until, view)}: nothing that is effective before is posted any more, so these figures stay what they are.</p>${nothing}</div>`;
  }
  const why = {
    open: html`The period has ended and is not closed`,
    running: html`The period has not ended`,
    ahead: html`The period lies in the future: all that is here was dated ahead`,
  }[standing];
  const closing = html`<code>liventix books close --book ${book.bookId} --until ${dayOrInstant(period.until)}</code>`;
  return html`<div class="verdict warn"><strong>Provisional: these figures may still change.</strong>
<p>${why}. They are what was known ${instantOf(made.at, view)}.${standing === 'open' ? html` To make them final: ${closing}` : html` Once it has ended, close it: ${closing}`}</p>${nothing}</div>`;
}

/** As `books close` takes it: the beginning of a day of UTC is its date. */
const dayOrInstant = (at: Instant): string => at.replace(/T00:00:00\.000000Z$/, '');

function factsPart({ book, period, figures, seal, made, verified }: Report, view: View): Markup {
  const moved =
    figures.first === null || figures.last === null
      ? 'none'
      : html`${formatCount(figures.transactions, view)}, of ${formatCount(figures.entries, view)} entries; the first effective ${instantOf(figures.first, view)}, the last ${instantOf(figures.last, view)}`;
  const sealed =
    seal === null
      ? 'nothing is sealed yet'
      : html`${formatCount(seal.sealNumber, view)}, of ${instantOf(seal.sealedAt, view)}, over ${formatCount(seal.treeSize, view)} events`;
  const facts: readonly (readonly [string, Markup | string])[] = [
    ['Book', `${book.name}, number ${book.bookId}`],
    [
      'Period',
      html`from ${instantOf(period.from, view)} until ${instantOf(period.until, view)}, which is not included; days of ${period.zone}`,
    ],
    ['Transactions in it', moved],
    ['Made', html`${instantOf(made.at, view)}: every figure is of this instant`],
    [
      'By',
      `${made.by}, with liventix ${made.version}; read in ${formatSpan(made.seconds.figures)}${verified.how === 'now' ? `, verified in ${formatSpan(made.seconds.verification)}` : ''}`,
    ],
    ['Database', `${made.database}, PostgreSQL ${made.server}`],
    ['Seal', sealed],
    ...(seal === null
      ? []
      : ([
          ['Root of the seal', html`<code>${seal.root}</code>`],
          ['Hash of the seal', html`<code>${seal.sealHash}</code>`],
        ] as const)),
  ];
  return html`<dl class="facts">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

const READING = html`<h2>How to read it</h2>
<ul class="notes"><li>By effective dates: what happened in the period, whenever it was recorded. What was recorded later and dated back is in it, until the period is closed.</li>
<li>A balance is its debits less its credits: what stands on the credit side is negative. Opening balance + debits − credits = closing balance, in each line.</li>
<li>The closing debits and credits of a type are the sums of its accounts that stand on that side. An account with slots is one account.</li>
<li>Amounts are in the currency above them, by its own number of decimal places; nothing is rounded, and nothing is converted.</li></ul>`;
