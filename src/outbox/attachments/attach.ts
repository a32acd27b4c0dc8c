import { givingWay } from '../../db/giving-way.ts';
import type { Pool, Queryable, Tx } from '../../db/pool.ts';
import { AppError } from '../../errors.ts';
import { type Announcement, assertAnnouncement, definitionOf } from './announcement.ts';
import { type Attachment, attachmentText, listAttachments } from './list.ts';
import type { FoundTable } from './table.ts';

export interface Waiting {
  readonly stop?: AbortSignal | undefined;
  /** Told how often a table was not free. */
  readonly onBusy?: ((tries: number) => void) | undefined;
}

export interface Attached {
  /** `repaired`: it was attached, and somebody had dropped or disabled a trigger of it. */
  readonly status: 'attached' | 'repaired' | 'already';
  /** The attachment's: where the same was attached before, the name that it was given then. */
  readonly name: string;
  readonly table: string;
  /** What installs its triggers; none where they are there. */
  readonly statements: readonly string[];
}

/**
 * Lets a table announce itself from now on: a row of outbox.attachments, and with it its triggers, in one transaction that gives way to
 * whoever uses the table after 50 ms, and is tried again. Done before, it does nothing.
 * @throws AppError as `planAttachment`, and OUTBOX_ATTACHMENT_BUSY
 */
export function attach(
  pool: Pool,
  table: FoundTable,
  announcement: Announcement,
  waiting: Waiting = {},
): Promise<Attached> {
  return givingWay(pool, busy(waiting, table.name), async (tx) => {
    await lockRegistry(tx);
    const planned = await planAttachment(tx, table, announcement);
    if (planned.status === 'already') return planned;
    if (planned.status === 'repaired') await tx.query('delete from outbox.attachments where name = $1', [planned.name]);
    await tx.query(
      `insert into outbox.attachments (${DEFINED}) select ${DEFINED} from jsonb_populate_record(null::outbox.attachments, $1)`,
      [definitionOf(table, announcement)],
    );
    return planned;
  });
}

/**
 * What `attach` would do, and whatever would keep it from it, but that the table is in use. Changes nothing.
 * @throws AppError OUTBOX_ATTACHMENT_INVALID, OUTBOX_ATTACHMENT_DIFFERS, OUTBOX_TOPIC_INVALID, DB_*
 */
export async function planAttachment(db: Queryable, table: FoundTable, announcement: Announcement): Promise<Attached> {
  assertAnnouncement(announcement);
  const { name } = announcement;
  const present = await findPresent(db, table, announcement);
  if (present !== undefined && !present.isSame) throw differs(announcement, table, present);
  if (present !== undefined && (present.name !== name || present.state === 'attached')) {
    return { status: 'already', name: present.name, table: table.name, statements: [] };
  }
  const { rows } = await db.query<{ statements: string[] }>(
    'select outbox.attachment_statements(jsonb_populate_record(null::outbox.attachments, $1)) as statements',
    [definitionOf(table, announcement)],
  );
  const status = present === undefined ? 'attached' : 'repaired';
  return { status, name, table: table.name, statements: rows[0]?.statements ?? [] };
}

/** Attachments: the one of a name, or all of a table. */
export type Which = { readonly name: string } | { readonly table: FoundTable };

/**
 * Ends attachments. Gives way as `attach` does.
 * @returns the names of those that were there
 * @throws AppError OUTBOX_ATTACHMENT_BUSY, DB_*
 */
export function detach(pool: Pool, which: Which, waiting: Waiting = {}): Promise<readonly string[]> {
  const what = 'name' in which ? `The table of ${which.name}` : which.table.name;
  return givingWay(pool, busy(waiting, what), async (tx) => {
    await lockRegistry(tx);
    const names = await findNames(tx, which);
    await tx.query('delete from outbox.attachments where name = any ($1)', [names]);
    return names;
  });
}

/** The names of those that there are. */
export async function findNames(db: Queryable, which: Which): Promise<readonly string[]> {
  const [column, value] = 'name' in which ? ['name', which.name] : ['relation', which.table.oid];
  const { rows } = await db.query<{ name: string }>(
    `select name from outbox.attachments where ${column} = $1 order by name`,
    [value],
  );
  return rows.map(({ name }) => name);
}

const COMPARED = [
  'relation',
  'kind',
  'column_name',
  'from_values',
  'to_values',
  'topic',
  'payload_columns',
  'organization_column',
  'ordering_key_column',
  'with_change',
];
const DEFINED = ['name', ...COMPARED].join(', ');

type Present = Attachment & { readonly isSame: boolean };

/** What has the name already, or announces the same change under the same topic by another. */
async function findPresent(db: Queryable, table: FoundTable, announcement: Announcement): Promise<Present | undefined> {
  const columnsOf = (row: string) => COMPARED.map((column) => `${row}.${column}`).join(', ');
  const { rows } = await db.query<{ name: string; isSame: boolean }>(
    `select a.name, (${columnsOf('a')}) is not distinct from (${columnsOf('d')}) as "isSame"
     from jsonb_populate_record(null::outbox.attachments, $1) d
     join outbox.attachments a on a.name = d.name
       or (a.relation, a.topic, a.kind, a.column_name, a.from_values, a.to_values)
         is not distinct from (d.relation, d.topic, d.kind, d.column_name, d.from_values, d.to_values)
     order by a.name <> d.name
     limit 1`,
    [definitionOf(table, announcement)],
  );
  const [found] = rows;
  if (found === undefined) return undefined;
  const attachment = (await listAttachments(db)).find(({ name }) => name === found.name);
  return attachment && { ...attachment, isSame: found.isSame };
}

function differs(announcement: Announcement, table: FoundTable, present: Present): AppError {
  const why =
    present.name === announcement.name
      ? `There is an attachment ${present.name} already, another one`
      : `${table.name} announces this under ${announcement.topic} already, with another payload or other columns`;
  return new AppError(
    'OUTBOX_ATTACHMENT_DIFFERS',
    `${why}: ${attachmentText(present)}. End that first (liventix outbox detach --name '${present.name}'), or give this one another name and topic.`,
    { details: { name: present.name } },
  );
}

// Two who attach the same at the same time: the second finds what the first did.
async function lockRegistry(tx: Tx): Promise<void> {
  await tx.query('lock table outbox.attachments in share row exclusive mode');
}

const busy = (waiting: Waiting, what: string) => ({ ...waiting, code: 'OUTBOX_ATTACHMENT_BUSY', what }) as const;
