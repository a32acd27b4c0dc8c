import { z } from 'zod';
import type { Queryable } from '../../db/pool.ts';
import { html, type Markup } from '../../html/markup.ts';
import { formatCount, formatInstant, formatSpan, type View } from '../../html/view.ts';
import type { CheckResult } from '../../ledger/verify.ts';
import { fromCursor, NUMBER, toCursor } from '../cursor.ts';
import { exported, type List, listOf, tableOf } from '../list.ts';
import { type Ask, defineAction, definePage, jsonFile, type Shown } from '../page.ts';
import { badge, button, copyable, facts, instant, type Tone } from '../parts.ts';
import { LIST_FIELDS, rowNumber } from '../query.ts';
import {
  findVerification,
  getVerification,
  type KeptVerification,
  listVerifications,
  type VerificationInFull,
  type VerificationState,
} from '../verifications.ts';
import type { VerificationRunner } from '../verifying.ts';

const STATES: Readonly<Record<VerificationState, readonly [words: string, tone: Tone]>> = {
  running: ['at work', 'plain'],
  balances: ['balances', 'good'],
  differs: ['does NOT balance', 'bad'],
  undecided: ['not all could be checked', 'warn'],
  failed: ['failed', 'bad'],
  broken_off: ['broken off', 'warn'],
};

const stateOf = ({ state }: KeptVerification): Markup => badge(...STATES[state]);

export const verifyButton = (ask: Ask): Markup =>
  html`${button(ask, { action: '/books/verify', needs: 'verify the books', label: 'Verify now' })}${button(ask, {
    action: '/books/verify',
    needs: 'verify the books',
    label: 'Verify independently',
    fields: { independently: 'yes' },
  })}`;

/** Verifies all books, unless somebody does already: whoever presses second is shown the first one's. */
export const verifyAction = (runner: VerificationRunner) =>
  defineAction({
    path: '/books/verify',
    name: 'verify the books',
    needs: 'verify the books',
    input: z.object({ independently: z.literal('yes').optional() }),
    subject: () => '/books',
    act: async ({ visitor, view }, { independently }) => {
      const begun = await runner.begin({ askedBy: visitor.name, independently: independently === 'yes' });
      const to = `/books/verifications/${begun.verificationId}`;
      return begun.status === 'begun'
        ? { message: `You began verification ${begun.verificationId}.`, to }
        : {
            message: `Verification ${begun.verificationId} is at work already, since ${formatInstant(begun.begunAt, view)}, for ${begun.askedBy}: no second one was begun.`,
            to,
          };
    },
  });

export const verificationsPage = definePage({
  section: 'books',
  path: '/books/verifications',
  query: z.object(LIST_FIELDS),
  show: async (ask, query) => {
    const list = verificationList(ask);
    if (query.export !== undefined) return exported(list, query.export);
    return {
      title: 'Verifications',
      body: html`${verifyButton(ask)}
<p class="faint">Those that were asked for here, and those of <code>liventix books verify --record</code>.</p>
${await listOf(list, ask, query)}`,
    };
  },
});

const verificationList = ({ reader, view }: Ask): List<KeptVerification> => ({
  name: 'Verifications',
  empty: 'None yet.',
  columns: [
    {
      name: 'verification',
      title: 'Number',
      text: ({ verificationId }) => verificationId,
      cell: ({ verificationId: id }) => html`<a href="/books/verifications/${id.toString()}">${id.toString()}</a>`,
    },
    { name: 'begun_at', title: 'Begun', text: ({ begunAt }) => begunAt, cell: ({ begunAt }) => instant(begunAt, view) },
    { name: 'ended_at', text: ({ endedAt }) => endedAt },
    { name: 'result', title: 'Result', text: ({ state }) => state, cell: stateOf },
    { name: 'asked_by', title: 'For', text: ({ askedBy }) => askedBy },
    { name: 'book', title: 'Of', text: ({ bookId }) => bookId ?? 'all', cell: (each) => scopeOf(each) },
    { name: 'independently', text: ({ independently }) => independently },
    {
      name: 'certificate_sha256',
      title: 'SHA-256 of the certificate',
      text: ({ certificateSha256 }) => certificateSha256,
      cell: ({ certificateSha256: sha256, failure }) => (sha256 === null ? (failure ?? '–') : copyable(sha256)),
    },
  ],
  fetch: async (cursor, limit) => {
    const [before] = cursor === undefined ? [] : fromCursor(cursor, [NUMBER]);
    const rows = await listVerifications(reader, { limit, before });
    const last = rows.at(-1);
    return { rows, next: rows.length < limit || last === undefined ? undefined : toCursor([last.verificationId]) };
  },
});

const scopeOf = ({ bookId, sinceSeal, independently }: KeptVerification): string =>
  [
    bookId === null ? 'all books' : `book ${bookId}`,
    ...(sinceSeal === null ? [] : [`since seal ${sinceSeal}`]),
    ...(independently ? ['independently'] : []),
  ].join(', ');

const REFRESH_SECONDS = 2;

export const verificationPage = definePage({
  section: 'books',
  path: '/books/verifications/:id',
  query: z.object({ id: rowNumber }),
  show: async ({ reader, view }, { id }) => {
    const verification = await findVerification(reader, id);
    if (verification === undefined) return await notHere(reader, id);
    const isRunning = verification.state === 'running';
    const { checks, skipped } = foundIn(verification);
    return {
      title: `Verification ${id}`,
      refreshSeconds: isRunning ? REFRESH_SECONDS : undefined,
      body: html`${isRunning ? progressOf(verification, view) : headOf(verification, view)}
${checks.length === 0 ? '' : html`<h2>Checks</h2>${checkTable(checks, view)}`}
${skipped.map(({ check, reason }) => html`<p class="warn">Skipped: ${check}: ${reason}</p>`)}
${verification.certificate === null ? '' : html`<h2>Certificate</h2><p>What was checked, when, of which version: <a href="/books/verifications/${id}/certificate" download>keep the file</a>. Its SHA-256 is above: whoever keeps that elsewhere can tell whether the file was changed.</p>`}`,
    };
  },
});

/** Whoever has just asked for it is led here, and a replica may not have heard of it yet. */
async function notHere(reader: Queryable, id: string): Promise<Shown> {
  const { rows } = await reader.query<{ isReplica: boolean }>('select pg_is_in_recovery() as "isReplica"');
  if (rows[0]?.isReplica !== true) await getVerification(reader, id);
  return {
    title: `Verification ${id}`,
    refreshSeconds: REFRESH_SECONDS,
    body: html`<p>The replica that pages are read from has no verification ${id}, or not yet. This page follows.</p>`,
  };
}

interface Found {
  readonly checks: readonly (Omit<CheckResult, 'seconds' | 'examined' | 'faults'> & {
    readonly examined: bigint | number | string;
    readonly faults: bigint | number | string;
  })[];
  readonly skipped: readonly { readonly check: string; readonly reason: string }[];
}

function foundIn({ certificate, progress }: VerificationInFull): Found {
  if (certificate !== null) return JSON.parse(certificate) as Found;
  return { checks: progress?.ended ?? [], skipped: [] };
}

function progressOf({ progress, begunAt, askedBy }: VerificationInFull, view: View): Markup {
  const { check = null, events = null, ended = [] } = progress ?? {};
  const bar =
    events === null
      ? html`<progress aria-label="At work"></progress>`
      : html`<progress aria-label="Events read" value="${events.done}" max="${Math.max(1, events.total)}"></progress>`;
  return html`<div class="verdict"><strong>At work${check === null ? '' : html`: ${check}`}</strong>
<p>${bar}</p><p>${ended.length} checks have ended${events === null ? '' : `, ${formatCount(events.done, view)} of ${formatCount(events.total, view)} events read`}. Begun ${instant(begunAt, view)} for ${askedBy}. This page follows; you may leave it.</p></div>`;
}

function headOf(verification: VerificationInFull, view: View): Markup {
  const { begunAt, endedAt, askedBy, certificateSha256, failure } = verification;
  const seconds = endedAt === null ? undefined : (endedAt.getTime() - begunAt.getTime()) / 1_000;
  return facts([
    ['Result', stateOf(verification)],
    ['Of', scopeOf(verification)],
    ['For', askedBy],
    ['Begun', instant(begunAt, view)],
    ['Took', seconds === undefined ? '–' : formatSpan(seconds)],
    ...(failure === null ? [] : [['Why', failure] as const]),
    ...(certificateSha256 === null ? [] : [['SHA-256 of the certificate', copyable(certificateSha256)] as const]),
  ]);
}

const checkTable = (checks: Found['checks'], view: View): Markup =>
  tableOf(
    'Checks',
    [
      { name: 'check', title: 'What holds', text: ({ check }) => check },
      {
        name: 'holds',
        title: 'Holds',
        text: ({ holds }) => holds,
        cell: ({ holds }) => (holds ? badge('holds', 'good') : badge('does not hold', 'bad')),
      },
      {
        name: 'examined',
        title: 'Looked at',
        isNumber: true,
        text: ({ examined }) => examined,
        cell: ({ examined, unit }) => `${formatCount(BigInt(examined), view)} ${unit}`,
      },
      {
        name: 'faults',
        title: 'At fault',
        text: ({ faults }) => faults,
        cell: ({ faults, first }) =>
          first.length === 0
            ? '–'
            : html`${formatCount(BigInt(faults), view)}: ${first.map((each) => html`<p>${each}</p>`)}`,
      },
    ],
    checks,
  );

/** The certificate as it was written: its hash is of these bytes. */
export const certificatePage = definePage({
  section: 'books',
  path: '/books/verifications/:id/certificate',
  query: z.object({ id: rowNumber }),
  show: async ({ reader }, { id }) => {
    const { certificate } = await getVerification(reader, id);
    return jsonFile(`verification-${id}.json`, certificate ?? '');
  },
});
