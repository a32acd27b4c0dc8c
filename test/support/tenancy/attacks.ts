import type { Tx } from '../../../src/db/pool.ts';
import { become } from '../callers.ts';
import { factsOf } from './facts.ts';
import type { Person } from './people.ts';
import { type Legacy, newName, oldName } from './rows.ts';

/** What was tried, and what came of it that should not have. */
export interface Breach {
  readonly who: string;
  readonly table: string;
  readonly attempt: string;
  readonly outcome: string;
}

/** What a person belongs to, before anything is tried. */
export interface Belongings {
  readonly me: string;
  readonly organizations: string;
  readonly sponsors: string;
}

export async function belongingsOf(tx: Tx, { userId }: Person): Promise<Belongings> {
  const { rows } = await tx.query<{ organizations: string; sponsors: string }>(
    `select array(select org_id from org_memberships where user_id = $1)::text as organizations,
       array(select sponsor_id from sponsor_members where user_id = $1)::text as sponsors`,
    [userId ?? null],
  );
  const [found = { organizations: '{}', sponsors: '{}' }] = rows;
  return {
    me: userId === undefined ? 'null::uuid' : `'${userId}'::uuid`,
    organizations: `any ('${found.organizations}'::uuid[])`,
    sponsors: `any ('${found.sponsors}'::uuid[])`,
  };
}

/** The condition on a row `t` by which it is a person's own: what others may see of it does not count. */
export function own({ name }: Legacy, { me, organizations, sponsors }: Belongings): string {
  const { organization, users = [], sponsor } = factsOf(name);
  return [
    ...(organization === undefined ? [] : [`${organization} = ${organizations}`]),
    ...users.map((user) => `${user} = ${me}`),
    ...(sponsor === undefined ? [] : [`${sponsor} = ${sponsors}`]),
    ...(name === 'organizations' ? [`t.id = ${organizations}`] : []),
    ...(name === 'user_profiles' ? [`t.user_id = ${me}`] : []),
    ...(name === 'sponsor_public_profiles' ? [`t.sponsor_id = ${sponsors}`] : []),
    ...(name === 'share_links' ? [`t.created_by = ${me}`] : []),
    ...(CONVERSATIONS.has(name) ? [conversation(name, me)] : []),
    'false',
  ]
    .map((condition) => `coalesce(${condition}, false)`)
    .join(' or ');
}

const CONVERSATIONS = new Set(['conversation_participants', 'direct_conversations', 'direct_messages']);
const conversation = (table: string, me: string) =>
  `exists (select from conversation_participants c where c.conversation_id = ${table === 'direct_conversations' ? 't.id' : 't.conversation_id'} and c.participant_user_id = ${me})`;

/** A digest of all rows that are not a person's own. */
async function othersDigest(tx: Tx, table: Legacy, condition: string): Promise<string> {
  const { rows } = await tx.query<{ digest: string }>(
    `select md5(coalesce(string_agg(d, '' order by d), '')) as digest
     from (select md5(row(${table.columns.join(', ')})::text) as d from ${oldName(table)} t where not (${condition})) x`,
  );
  return rows[0]?.digest ?? '';
}

/**
 * Runs a statement as a person in a savepoint, asks `after` as the superuser what came of it, and undoes it.
 * Answers the code of the refusal or `after`'s answer.
 */
export async function attempt<T>(
  tx: Tx,
  person: Person,
  statement: string,
  after: (rows: number) => Promise<T>,
): Promise<T | Refusal> {
  await tx.query('savepoint attempt');
  try {
    await become(tx, person);
    const { rowCount } = await tx.query(statement);
    await tx.query('reset role');
    return await after(rowCount ?? 0);
  } catch (error) {
    const { code, message, detail, hint } = error as { code?: string; message: string; detail?: string; hint?: string };
    if (code === undefined) throw error;
    return new Refusal(code, [message, detail, hint].filter((part) => part !== undefined).join(' | '));
  } finally {
    await tx.query('rollback to savepoint attempt; release savepoint attempt; reset role');
  }
}

export class Refusal {
  readonly code: string;
  readonly text: string;
  constructor(code: string, text: string) {
    this.code = code;
    this.text = text;
  }
}

/** That a caller may write nothing of others blindly: statements that read nothing, and those that give back what they wrote. */
export async function blindAttacks(
  tx: Tx,
  table: Legacy,
  person: Person,
  belongings: Belongings,
): Promise<readonly Breach[]> {
  const condition = own(table, belongings);
  const before = await othersDigest(tx, table, condition);
  const breaches: Breach[] = [];
  for (const on of new Set([oldName(table), newName(table)])) {
    for (const statement of await blindStatements(tx, on, table, person)) {
      const outcome = await attempt(tx, person, statement, () => othersDigest(tx, table, condition));
      if (outcome instanceof Refusal ? REFUSALS.has(outcome.code) : outcome === before) continue;
      const said = outcome instanceof Refusal ? `${outcome.code} ${outcome.text}` : "others' rows changed";
      breaches.push({ who: person.name, table: table.name, attempt: statement, outcome: said });
    }
  }
  return breaches;
}

/** Not privileged, or of a kind that takes no such statement. */
const REFUSALS: ReadonlySet<string> = new Set(['42501', '42809']);

async function blindStatements(tx: Tx, on: string, table: Legacy, person: Person): Promise<readonly string[]> {
  const { rows } = await tx.query<{ column: string; isNullable: boolean }>(
    `select quote_ident(a.attname) as column, not c.attnotnull as "isNullable"
     from pg_attribute a join pg_attribute c on c.attrelid = $3::regclass and c.attname = a.attname
     where a.attrelid = $1::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
       and has_column_privilege($2, a.attrelid, a.attnum, 'update')
     order by a.attnum`,
    [on, person.role, newName(table)],
  );
  const last = rows.at(-1)?.column;
  const emptied = rows.findLast(({ isNullable }) => isNullable)?.column;
  return [
    ...(emptied === undefined ? [] : [`update ${on} set ${emptied} = null`]),
    ...(last === undefined ? [] : [`update ${on} t set ${last} = t.${last} where true returning t.*`]),
    `delete from ${on}`,
    `delete from ${on} t where t is not null or true returning t.*`,
    `truncate ${on}`,
  ];
}
