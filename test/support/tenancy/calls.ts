import type { Tx } from '../../../src/db/pool.ts';
import { attempt, Refusal } from './attacks.ts';
import type { Person } from './people.ts';

/** A function that somebody but its owner may call, and that no trigger calls alone. */
export interface Callable {
  /** As the server writes it, with its schema. */
  readonly signature: string;
  readonly name: string;
  readonly isDefiner: boolean;
  readonly names: readonly string[];
  readonly types: readonly string[];
  /** How many have to be given. */
  readonly required: number;
}

/** The functions of the legacy schemas and ours, but those of extensions, that a role may call. */
export async function callables(tx: Tx, role: string): Promise<readonly Callable[]> {
  const { rows } = await tx.query<Callable>(
    `select format('%I.%I', n.nspname, f.proname) as signature, f.proname as name, f.prosecdef as "isDefiner",
       coalesce(f.proargnames[1:f.pronargs], '{}')::text[] as names,
       array(select format_type(t, null) from unnest(f.proargtypes::oid[]) with ordinality a (t, at) order by at) as types,
       f.pronargs - f.pronargdefaults as required
     from pg_proc f join pg_namespace n on n.oid = f.pronamespace
     where n.nspname not in ('pg_catalog', 'information_schema', 'auth', 'restructure')
       and f.prokind = 'f' and f.prorettype <> 'trigger'::regtype
       and has_function_privilege($1, f.oid, 'execute') and has_schema_privilege($1, n.oid, 'usage')
       and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = f.oid and d.deptype = 'e')
     order by 1, f.oid`,
    [role],
  );
  return rows;
}

/** The values of another tenant by which functions are asked for his rows. */
export interface Target {
  readonly organization: string;
  readonly user: string;
  readonly event: string;
  readonly tier: string;
  readonly post: string;
  readonly order: string;
  readonly sponsorshipOrder: string;
  readonly sponsor: string;
  readonly campaign: string;
  readonly creative: string;
  readonly wallet: string;
  readonly orgWallet: string;
  readonly hold: string;
  readonly session: string;
}

/** What of another organization, and of a user of it, a caller could ask for: the private event before the public one. */
export async function targetOf(tx: Tx, organization: string, user: string): Promise<Target> {
  const { rows } = await tx.query<Target>(
    `with event as (
       select e.id from events e where e.owner_context_id = $1 and e.owner_context_type = 'organization'
       order by e.visibility = 'public', (select count(*) from orders o where o.event_id = e.id) desc, e.id
     ), first as (select id from event limit 1)
     select ($1::uuid)::text as organization, ($2::uuid)::text as "user",
       (select id from first) as event,
       (select t.id from ticket_tiers t join event e on e.id = t.event_id limit 1) as tier,
       (select p.id from event_posts p join event e on e.id = p.event_id limit 1) as post,
       (select o.id from orders o join event e on e.id = o.event_id limit 1) as "order",
       (select o.id from sponsorship_orders o join event e on e.id = o.event_id limit 1) as "sponsorshipOrder",
       (select o.sponsor_id from sponsorship_orders o join event e on e.id = o.event_id limit 1) as sponsor,
       (select c.id from campaigns c where c.org_id = $1 limit 1) as campaign,
       (select a.id from ad_creatives a join campaigns c on c.id = a.campaign_id where c.org_id = $1 limit 1) as creative,
       (select w.id from wallets w order by w.user_id = $2 desc limit 1) as wallet,
       (select w.id from org_wallets w where w.org_id = $1) as "orgWallet",
       (select h.id from ticket_holds h order by h.status = 'active' desc limit 1) as hold,
       (select h.session_id from ticket_holds h where h.session_id is not null limit 1) as session`,
    [organization, user],
  );
  const [target] = rows;
  if (target === undefined) throw new Error('nothing to ask for');
  return target;
}

const BY_NAME: readonly (readonly [pattern: RegExp, what: keyof Target])[] = [
  [/org_wallet/u, 'orgWallet'],
  [/wallet/u, 'wallet'],
  [/org/u, 'organization'],
  [/tier/u, 'tier'],
  [/post/u, 'post'],
  [/creative/u, 'creative'],
  [/campaign/u, 'campaign'],
  [/hold/u, 'hold'],
  [/sponsor/u, 'sponsor'],
  [/order/u, 'sponsorshipOrder'],
  [/event/u, 'event'],
  [/session/u, 'session'],
];

const BY_TYPE: Readonly<Record<string, string>> = {
  integer: '10',
  numeric: '0',
  date: `'2020-01-01'`,
  'timestamp with time zone': 'now()',
  boolean: 'false',
  jsonb: `'{}'`,
  recurrence_pattern: `'weekly'`,
};

/** A call of a function with another tenant's values, as a statement that gives the answer as text. */
export function callOf({ signature, names, types, required }: Callable, target: Target): string {
  const given = types
    .slice(0, Math.max(required, types.length))
    .map((type, at) => `${argument(type, names[at] ?? '', target)}::${type}`);
  return `select f::text as answer from ${signature}(${given.join(', ')}) f`;
}

function argument(type: string, name: string, target: Target): string {
  if (/cursor/u.test(name)) return 'null';
  if (name === 'p_reservations') return `'[{"tier_id": "${target.tier}", "quantity": 1}]'`;
  if (/to_date|end_date|p_to|series_end/u.test(name)) return `'2030-01-01'`;
  if (/uuid|text/u.test(type)) {
    const what = BY_NAME.find(([pattern]) => pattern.test(name))?.[1] ?? (type.startsWith('uuid') ? 'user' : undefined);
    if (what === undefined) return 'null';
    return type.endsWith('[]') ? `array['${target[what]}']` : `'${target[what]}'`;
  }
  return BY_TYPE[type] ?? 'null';
}

/** What a call answered, and the tables in which it wrote; or that it was refused. */
export interface Answer {
  readonly answers: readonly string[];
  readonly wrote: readonly string[];
}

export async function call(tx: Tx, person: Person, statement: string): Promise<Answer | Refusal> {
  const before = await written(tx);
  let answers: readonly string[] = [];
  const outcome = await attempt(
    tx,
    person,
    // Kept in a setting, which is read back once the caller is gone.
    `select set_config('test.answers', (select coalesce(jsonb_agg(answer), '[]')::text from (${statement}) a), true)`,
    async () => {
      const { rows } = await tx.query<{ answers: string }>(`select current_setting('test.answers') as answers`);
      answers = JSON.parse(rows[0]?.answers ?? '[]') as string[];
      return written(tx);
    },
  );
  if (outcome instanceof Refusal) return outcome;
  return {
    answers,
    wrote: [...outcome].filter(([table, count]) => count > (before.get(table) ?? 0n)).map(([table]) => table),
  };
}

/** By table, how many rows this transaction wrote. */
async function written(tx: Tx): Promise<ReadonlyMap<string, bigint>> {
  const { rows } = await tx.query<{ table: string; rows: bigint }>(
    `select relname as "table", n_tup_ins + n_tup_upd + n_tup_del as rows from pg_stat_xact_user_tables where n_tup_ins + n_tup_upd + n_tup_del > 0`,
  );
  return new Map(rows.map(({ table, rows: count }) => [table, count]));
}

/** Values of an organization's rows that others may not see, but for a user who has bought of it: keys, names, addresses, tokens. */
export async function secretsOf(tx: Tx, organization: string, user?: string): Promise<ReadonlySet<string>> {
  const { rows } = await tx.query<{ secret: string | null }>(SECRETS, [organization, user ?? null]);
  return new Set(rows.flatMap(({ secret }) => secret ?? []));
}

const SECRETS = `
  with event as (select * from events e where e.owner_context_id = $1 and e.owner_context_type = 'organization'),
  hidden as (
    select * from event h where h.visibility <> 'public'
      and not exists (select from tickets t where t.event_id = h.id and t.owner_user_id = $2::uuid))
  select unnest(array[h.id::text, h.title, h.link_token]) as secret from hidden h
  union select unnest(array[o.id::text, o.contact_email]) from orders o join event e on e.id = o.event_id where o.user_id is distinct from $2::uuid
  union select unnest(array[t.id::text, t.qr_code]) from tickets t join event e on e.id = t.event_id where t.owner_user_id is distinct from $2::uuid
  union select unnest(array[c.id::text, c.name]) from campaigns c where c.org_id = $1
  union select a.id::text from ad_creatives a join campaigns c on c.id = a.campaign_id where c.org_id = $1
  union select o.id::text from sponsorship_orders o join event e on e.id = o.event_id
  union select p.id::text from event_posts p join hidden h on h.id = p.event_id
  union select t.id::text from ticket_tiers t join hidden h on h.id = t.event_id
  union select w.id::text from org_wallets w where w.org_id = $1
  union select x.id::text from org_wallet_transactions x join org_wallets w on w.id = x.wallet_id where w.org_id = $1
  union select m.id::text from sponsorship_matches m join event e on e.id = m.event_id
  union select unnest(array[n.email, n.phone]) from org_contact_import_entries n join org_contact_imports i on i.id = n.import_id where i.org_id = $1
  union select i.token from org_invitations i where i.org_id = $1
  union select r.token from role_invites r join event e on e.id = r.event_id
  union select g.code from guest_codes g join event e on e.id = g.event_id`;
