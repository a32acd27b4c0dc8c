import type { Queryable } from '../../src/db/pool.ts';
import { purposeOf, readHeaders } from './headers.ts';
import { code, fence, opening, page, table } from './markdown.ts';

const INTRO = [
  'What may be called from SQL, in your own transaction. What each says of itself is the comment above it in `migrations/`. A refusal is raised',
  'with a SQLSTATE of class LV ([errors](../errors.md)). Parameters may be given by name: `payments.place_hold(p_book_id => 1, p_hold => …)`.',
];

/** In the order of the page. Whatever else somebody beside the owner may call is listed at the end. */
const CHAPTERS: Readonly<Record<string, readonly string[]>> = {
  'Accounts, postings, holds': [
    'payments.open_accounts',
    'payments.change_account',
    'payments.add_slots',
    'payments.post_transaction',
    'payments.post_transactions',
    'payments.place_hold',
    'payments.void_hold',
    'payments.expire_holds',
    'payments.split_amount',
  ],
  'Balances and statements': [
    'payments.recorded_balance',
    'payments.effective_balance',
    'payments.trial_balance',
    'payments.account_statement_bounds',
    'payments.account_statement_lines',
    'payments.statement_bounds',
    'payments.statement_lines',
  ],
  'Periods and seals': [
    'payments.next_period',
    'payments.next_certificate',
    'payments.close_period',
    'payments.certificate_text',
    'payments.certificate_hash',
    'payments.seal_events',
  ],
  'State machines': ['states.transition', 'public.transition_state'],
  Embeddings: [
    'ml.similar',
    'ml.similar_events',
    'ml.similar_sponsors',
    'ml.similar_packages',
    'ml.matching',
    'ml.matching_events',
    'ml.matching_sponsors',
    'ml.missing',
    'ml.use_model',
    'ml.attach_subjects',
  ],
  'For the owner of the tables': [
    'payments.grant_book',
    'payments.revoke_book',
    'replay.columns_altered',
    'partitions.maintain',
    'rollups.run_all',
    'rollups.refresh_due',
  ],
};

/** Of those whose migration says nothing above them. */
const SAID_HERE: Readonly<Record<string, string>> = {
  'payments.certificate_hash': 'The SHA-256 of the canonical text of a certificate.',
};

interface Routine {
  readonly name: string;
  readonly kind: 'f' | 'p';
  readonly arguments: string;
  readonly result: string | null;
  /** Beside the owner. */
  readonly callers: readonly string[];
}

const GRANTED = 'whoever was granted a book';
const GUESTS = ['anon', 'authenticated', 'service_role'];

/**
 * docs/reference/sql-functions.md
 * @param db a migrated database with the roles of Supabase, inside a transaction that is not committed: a role is made in it
 * @param migrations the folder
 */
export async function sqlFunctionsPage(db: Queryable, migrations: string): Promise<string> {
  const routines = await readRoutines(db);
  const headers = readHeaders(migrations);
  const said = (name: string): readonly string[] => {
    const purpose = purposeOf(headers.get(name) ?? []);
    return purpose.length > 0 ? purpose : [SAID_HERE[name] ?? ''];
  };
  const chapters = Object.entries(CHAPTERS).flatMap(([title, names]) => [
    `## ${title}`,
    '',
    ...names.flatMap((name) => section(named(routines, name), said(name))),
  ]);
  const told = new Set(Object.values(CHAPTERS).flat());
  const others = routines.filter(({ name, callers }) => callers.length > 0 && !told.has(name));
  return page([
    ...opening('SQL functions', INTRO),
    ...chapters,
    '## What those call',
    '',
    "These run with their caller's rights, as the functions above that call them do, so that whoever may call those may call these. They are not for",
    'calling by hand, and may change.',
    '',
    ...table(
      ['function', 'what it is for'],
      others.map((routine) => [code(routine.name), firstSentence(said(routine.name))]),
    ),
  ]);
}

async function readRoutines(db: Queryable): Promise<Routine[]> {
  await db.query('create role manual_book_reader nologin');
  await db.query("select payments.grant_book('manual_book_reader', 1, true)");
  const { rows } = await db.query<Routine>(
    `select n.nspname || '.' || p.proname as name, p.prokind as kind,
            pg_get_function_arguments(p.oid) as arguments, pg_get_function_result(p.oid) as result,
            array(
              select distinct case when g.grantee = 0 then 'everybody who may use the schema'
                                   when g.grantee::regrole::text = 'manual_book_reader' then $2 else g.grantee::regrole::text end as who
              from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g
              where g.grantee <> p.proowner and (g.grantee = 0 or g.grantee::regrole::text = any ($1::text[] || 'manual_book_reader'::text))
              order by who
            ) as callers
     from pg_proc p
     join pg_namespace n on n.oid = p.pronamespace
     where n.nspname in ('payments', 'outbox', 'replay', 'states', 'restructure', 'partitions', 'rollups', 'ml', 'public')
       and p.prorettype <> 'trigger'::regtype
     order by name, p.oid::regprocedure::text`,
    [GUESTS, GRANTED],
  );
  return rows;
}

function named(routines: readonly Routine[], name: string): Routine {
  const found = routines.filter((routine) => routine.name === name);
  const [routine] = found;
  if (routine === undefined || found.length > 1)
    throw new Error(`there are ${found.length} functions ${name}: say which in scripts/manual`);
  return routine;
}

function section(routine: Routine, purpose: readonly string[]): string[] {
  return [
    `### ${routine.name}`,
    '',
    ...fence('sql', signature(routine)),
    ...fence('text', purpose.join('\n\n').split('\n')),
    `May be called by: the owner${routine.callers.map((who) => `, ${GUESTS.includes(who) ? code(who) : who}`).join('')}.`,
    '',
  ];
}

function signature({ name, kind, arguments: parameters, result }: Routine): string[] {
  const call = `${kind === 'p' ? 'call ' : ''}${name}(${parameters})`;
  return kind === 'p' ? [call] : [`${call} returns ${result}`];
}

/** On one line. */
const firstSentence = ([text = '']: readonly string[]): string =>
  text.replace(/\s+/g, ' ').replace(/^(.*?\.)(?: .*)?$/, '$1');
