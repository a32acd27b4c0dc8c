import { z } from 'zod';
import { html } from '../../html/markup.ts';
import { fromCursor, NUMBER, toCursor } from '../cursor.ts';
import { exported, type List, listOf } from '../list.ts';
import { type Ask, definePage } from '../page.ts';
import { badge, instant, type Tone } from '../parts.ts';
import { LIST_FIELDS } from '../query.ts';

interface AuditEvent {
  readonly eventId: bigint;
  readonly recordedAt: Date;
  readonly actor: string;
  readonly knownBy: string;
  readonly address: string | null;
  readonly action: string;
  readonly subject: string | null;
  readonly outcome: 'began' | 'done' | 'refused' | 'failed';
  readonly endsEventId: bigint | null;
  readonly message: string | null;
  readonly input: unknown;
}

const TONES: Readonly<Record<AuditEvent['outcome'], Tone>> = {
  began: 'plain',
  done: 'good',
  refused: 'warn',
  failed: 'bad',
};

export const auditPage = definePage({
  section: 'audit',
  path: '/audit',
  query: z.object({ ...LIST_FIELDS, actor: z.string().max(200).optional() }),
  show: async (ask, query) => {
    const list = auditList(ask, query.actor);
    if (query.export !== undefined) return exported(list, query.export);
    return {
      title: 'What was done here',
      body: html`<form class="filter" method="get"><label>Who <input name="actor" value="${query.actor ?? ''}"></label><button type="submit">Show</button></form>
${await listOf(list, ask, query)}`,
    };
  },
});

const auditList = ({ reader, view }: Ask, actor: string | undefined): List<AuditEvent> => ({
  name: 'Audit log',
  empty: 'Nothing yet.',
  columns: [
    { name: 'event', title: 'Event', isNumber: true, text: ({ eventId }) => eventId },
    {
      name: 'recorded_at',
      title: 'When',
      text: ({ recordedAt }) => recordedAt,
      cell: ({ recordedAt }) => instant(recordedAt, view),
    },
    { name: 'actor', title: 'Who', isShort: true, text: ({ actor: who }) => who },
    { name: 'known_by', text: ({ knownBy }) => knownBy },
    { name: 'address', text: ({ address }) => address },
    { name: 'action', title: 'What', text: ({ action }) => action },
    {
      name: 'subject',
      title: 'Of',
      text: ({ subject }) => subject,
      cell: ({ subject }) => (subject === null ? '–' : html`<a href="${subject}">${subject}</a>`),
    },
    {
      name: 'outcome',
      title: 'How it went',
      text: ({ outcome }) => outcome,
      cell: ({ outcome }) => badge(outcome, TONES[outcome]),
    },
    { name: 'ends_event', text: ({ endsEventId }) => endsEventId },
    { name: 'input', text: ({ input }) => JSON.stringify(input) },
    {
      name: 'message',
      title: 'In words',
      text: ({ message }) => message,
      cell: ({ message, input }) => message ?? html`<code>${JSON.stringify(input)}</code>`,
    },
  ],
  fetch: async (cursor, limit) => {
    const [before = null] = cursor === undefined ? [] : fromCursor(cursor, [NUMBER]);
    const { rows } = await reader.query<AuditEvent>(
      `select event_id as "eventId", recorded_at as "recordedAt", actor, known_by as "knownBy", address, action, subject, outcome, ends_event_id as "endsEventId", message, input
       from console.events where ($2::bigint is null or event_id < $2) and ($3::text is null or actor = $3) order by event_id desc limit $1`,
      [limit, before, actor ?? null],
    );
    const last = rows.at(-1);
    return { rows, next: rows.length < limit || last === undefined ? undefined : toCursor([last.eventId]) };
  },
});
