import { html, type Markup } from '../html/markup.ts';
import { formatCount, formatInstant, type View } from '../html/view.ts';
import type { CheckResult } from '../ledger/verify.ts';
import type { CheckedCertificate, Report, Verified } from './report.ts';
import { type Column, countColumn, tableOf } from './table.ts';

/** What the book was closed with, beside what its entries say now. */
export function certificatePart({ certificates, standing }: Report, view: View): Markup {
  const closing = certificates.find(({ certifies }) => certifies === 'closing');
  return html`<h2>Certificates of closed periods</h2>
${certificates.length === 0 ? html`<p>None: no part of this period is closed.</p>` : tableOf('Closed periods', columnsOf(view), { rows: certificates })}
${closing === undefined ? noneText(standing) : html`<h3>The certificate of what stood at the end</h3><pre>${closing.text}</pre><p>SHA-256 of this text, with a line feed at its end: <code>${closing.hash}</code></p>`}`;
}

const noneText = (standing: Report['standing']): Markup | string =>
  standing === 'closed'
    ? html`<p>The book is closed beyond this period, but no closed period ends where it ends: the certificates above are of others that touch it.</p>`
    : '';

const columnsOf = (view: View): readonly Column<CheckedCertificate>[] => [
  {
    title: 'Period',
    cell: ({ from, until }) =>
      `${from === null ? 'the beginning' : formatInstant(from, view)} until ${formatInstant(until, view)}`,
  },
  { title: 'Certifies', cell: ({ certifies }) => WHAT[certifies] },
  { title: 'Agrees', cell: agreement },
  {
    title: 'Closed',
    cell: ({ closedAt, closedBy, eventPosition }) =>
      `${formatInstant(closedAt, view)}, by ${closedBy}, event ${eventPosition}`,
  },
  { title: 'SHA-256', cell: ({ hash }) => html`<code>${hash}</code>` },
];

const WHAT = { closing: 'what stood at the end', opening: 'what stood at the beginning', part: 'a part' } as const;

const agreement = ({ differences }: CheckedCertificate): Markup => {
  if (differences === null) return html`<span class="faint">not compared</span>`;
  if (differences.length === 0) return html`<span class="good">yes</span>`;
  return html`<span class="bad">no: ${differences.join('; ')}</span>`;
};

/** Checks as a certificate has them, whose large numbers JSON made numbers. */
type Check = Omit<CheckResult, 'seconds' | 'examined' | 'faults'> & {
  readonly examined: bigint | number;
  readonly faults: bigint | number;
};

interface Found {
  readonly checks: readonly Check[];
  readonly skipped: readonly { readonly check: string; readonly reason: string }[];
}

export function verificationPart({ verified }: Report, view: View): Markup {
  if (verified.how === 'not')
    return html`<h2>Verification</h2><p class="warn">None was made, and none is recorded.</p>`;
  const { at, sha256, certificate, whose } = proofOf(verified);
  const { checks, skipped } = foundIn(certificate);
  const columns: readonly Column<Check>[] = [
    { title: 'What must hold', cell: ({ check }) => check },
    {
      title: 'Holds',
      cell: ({ holds }) =>
        holds ? html`<span class="good">holds</span>` : html`<span class="bad">does not hold</span>`,
    },
    countColumn('Looked at', ({ examined }) => BigInt(examined), view),
    { title: 'Of', cell: ({ unit }) => unit },
    { title: 'At fault', cell: (check) => faultsOf(check, view) },
  ];
  return html`<h2>Verification</h2>
<p>${whose}, ${formatInstant(at, view)}. SHA-256 of its certificate: <code>${sha256}</code></p>
${tableOf('Checks', columns, { rows: checks })}
${skipped.map(({ check, reason }) => html`<p class="warn">Not made: ${check}: ${reason}</p>`)}
<h3>The certificate of the verification</h3>
<p class="faint">JSON on one line, with a line feed at its end.</p>
<pre>${certificate.trimEnd()}</pre>`;
}

function proofOf(verified: Exclude<Verified, { how: 'not' }>) {
  if (verified.how === 'now') {
    const { verification, certificate, sha256 } = verified;
    return { at: verification.verifiedAt, certificate, sha256, whose: 'This book, in the snapshot of this report' };
  }
  const { begunAt, certificate, certificateSha256, verificationId } = verified.recorded;
  const whose = `All books, by verification ${verificationId}, which was made before this report`;
  return { at: begunAt, certificate, sha256: certificateSha256, whose };
}

/** What a certificate says was checked. */
export const foundIn = (certificate: string): Found => JSON.parse(certificate) as Found;

const faultsOf = ({ faults, first }: Check, view: View): string =>
  first.length === 0 ? '–' : `${formatCount(faults, view)}: ${first.join('; ')}`;
