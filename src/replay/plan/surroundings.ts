import { describeHolder, findHorizonHolders } from '../../db/horizon.ts';
import type { Queryable } from '../../db/pool.ts';
import { LOCK_TIMEOUT_MS, MAX_TRIES } from '../../db/try-until-free.ts';
import type { LegacyTables } from '../legacy.ts';
import { SOURCES } from '../sources.ts';

/** A lock that a command will take on what the old platform uses. */
export interface PlannedLock {
  readonly command: string;
  readonly on: string;
  readonly mode: string;
  readonly heldUntil: string;
  /** How long a statement of the old platform has to wait for it at most, where that is bounded. */
  readonly atMostMs: number | null;
}

/** Every lock that the way from here to the end takes on the old tables, in the order of the commands. */
export function plannedLocks(tables: LegacyTables): PlannedLock[] {
  const four = SOURCES.flatMap(({ wallets, transactions }) => [tables[wallets], tables[transactions]]).join(', ');
  const givesWay = `tried ${MAX_TRIES} times, each gives way after ${LOCK_TIMEOUT_MS} ms`;
  const readers = [four, tables.invoices].join(', ');
  return [
    {
      command: 'backfill plan',
      on: readers,
      mode: 'ACCESS SHARE',
      heldUntil: 'it has read; blocks DDL alone',
      atMostMs: null,
    },
    {
      command: 'backfill capture on',
      on: four,
      mode: 'SHARE ROW EXCLUSIVE',
      heldUntil: `the triggers are made, a few ms; blocks writers, no readers; ${givesWay}`,
      atMostMs: LOCK_TIMEOUT_MS,
    },
    {
      command: 'backfill run',
      on: readers,
      mode: 'ACCESS SHARE',
      heldUntil: 'a chunk is read; blocks DDL alone',
      atMostMs: null,
    },
    {
      command: 'backfill run, its first step',
      on: 'up to 500 wallets at a time, by their new rows in replay.wallets',
      mode: 'inserted',
      heldUntil: `their accounts are opened; blocks old code that writes to one for the first time; ${givesWay}`,
      atMostMs: null,
    },
    {
      command: 'backfill run, beside it',
      on: 'one wallet after the other, as a canary',
      mode: 'FOR NO KEY UPDATE',
      heldUntil: 'it has committed, a ms; blocks writers of that wallet; not with --full-speed',
      atMostMs: null,
    },
    {
      command: 'backfill functions, functions --restore',
      on: tables.org_wallet_transactions,
      mode: 'ACCESS EXCLUSIVE',
      heldUntil: `one index is dropped, or made again (SHARE, as long as that takes); ${givesWay}`,
      atMostMs: LOCK_TIMEOUT_MS,
    },
    {
      command: 'backfill cutover, the first',
      on: 'payments.entries, payments.account_slots',
      mode: 'SHARE ROW EXCLUSIVE',
      heldUntil: `the mirror's triggers are made, a few ms; blocks postings; ${givesWay}`,
      atMostMs: LOCK_TIMEOUT_MS,
    },
    {
      command: 'backfill cutover, rollback',
      on: 'one wallet at a time, by its row in replay.wallets',
      mode: 'FOR UPDATE',
      heldUntil: `what came since it was compared is compared too; blocks writers of that wallet; ${givesWay}`,
      atMostMs: null,
    },
    {
      command: 'backfill abort',
      on: four,
      mode: 'ACCESS EXCLUSIVE',
      heldUntil: `the triggers are dropped; blocks everybody; ${givesWay}`,
      atMostMs: null,
    },
    {
      command: 'backfill finish',
      on: `${four}, payments.entries, payments.account_slots`,
      mode: 'ACCESS EXCLUSIVE',
      heldUntil: `wallets are counted once more and triggers changed (all is compared before); blocks everybody; ${givesWay}`,
      atMostMs: null,
    },
  ];
}

/** Who keeps `capture on` waiting now. */
export interface Waited {
  readonly who: string;
  readonly todo: string;
}

/** Transactions of this database that have written and are older than the capture would be, the oldest first. */
export async function findOlderTransactions(db: Queryable): Promise<Waited[]> {
  const { rows } = await db.query<{ database: string }>('select current_database() as database');
  const { holders } = await findHorizonHolders(db, 0);
  return holders
    .filter((holder) =>
      holder.kind === 'transaction'
        ? holder.hasWritten && holder.database === rows[0]?.database
        : holder.kind === 'prepared',
    )
    .map((holder) => ({ who: describeHolder(holder), todo: holder.todo }));
}

/** Something on the tables, or beside them, that changes what is read, captured or mirrored. */
export interface Interference {
  readonly kind:
    | 'trigger'
    | 'rule'
    | 'event_trigger'
    | 'inheritance'
    | 'partitions'
    | 'row_security'
    | 'owner'
    | 'also_in';
  readonly on: string;
  readonly what: string;
  readonly outcome: string;
  readonly blocks: boolean;
}

/** They stamp updated_at, which nothing of ours reads. */
const HARMLESS_FUNCTIONS = ['set_updated_at', 'update_updated_at_column', 'tg_touch_updated_at'];

export async function findInterferences(db: Queryable, tables: LegacyTables): Promise<Interference[]> {
  const names = Object.values(tables);
  const { rows } = await db.query<Interference>(
    `with legacy as (select n.name, to_regclass(n.name) as oid from unnest($1::text[]) as n (name))
     select 'trigger' as kind, l.name as on, pg_get_triggerdef(t.oid) as what,
            'see whether it writes to a wallet: after the cut-over it fires for mirrored rows and balances too' as outcome, false as blocks
     from legacy l join pg_trigger t on t.tgrelid = l.oid join pg_proc f on f.oid = t.tgfoid
     where not t.tgisinternal and t.tgenabled <> 'D' and f.proname <> all ($2)
       and f.pronamespace is distinct from to_regnamespace('replay')
     union all
     select 'rule', l.name, pg_get_ruledef(r.oid), 'it rewrites what is written: drop it first', true
     from legacy l join pg_rewrite r on r.ev_class = l.oid
     union all
     select 'event_trigger', 'the database', format('%s on %s', e.evtname, e.evtevent), 'it fires when triggers are made: see that it lets them', false
     from pg_event_trigger e where e.evtenabled <> 'D' and e.evtevent <> 'login'
     union all
     select 'inheritance', l.name, count(*) || ' tables inherit from it', 'what is written to them is not captured: move their rows first', true
     from legacy l join pg_class c on c.oid = l.oid and c.relkind = 'r' join pg_inherits i on i.inhparent = l.oid group by l.name
     union all
     select 'partitions', l.name, count(*) || ' partitions', 'captured like a table; locks are taken on each of them', false
     from legacy l join pg_class c on c.oid = l.oid and c.relkind = 'p' join pg_inherits i on i.inhparent = l.oid group by l.name
     union all
     select 'row_security', l.name, 'forced, for its owner too', 'this role passes it; whoever runs the backfill must too', false
     from legacy l join pg_class c on c.oid = l.oid where c.relrowsecurity and c.relforcerowsecurity
     union all
     select 'owner', l.name, format('owned by %I, this is %I', pg_get_userbyid(c.relowner), current_user),
            'capture on makes triggers, which only the owner may: run it as the owner', true
     from legacy l join pg_class c on c.oid = l.oid where not pg_has_role(c.relowner, 'usage') and l.name <> $3
     union all
     select 'also_in', l.name, format('%I.%I', n.nspname, o.relname), 'this one is not read: see that it holds nothing', false
     from legacy l join pg_class c on c.oid = l.oid
     join pg_class o on o.relname = c.relname and o.relkind in ('r', 'p') and o.oid <> c.oid and not o.relispartition
     join pg_namespace n on n.oid = o.relnamespace and n.nspname <> 'replay'
     order by 1, 2, 3`,
    [names, HARMLESS_FUNCTIONS, tables.invoices],
  );
  return rows;
}

export interface Replication {
  readonly walLevel: string;
  /** Whether this server itself follows another. */
  readonly isReplica: boolean;
  readonly slots: readonly {
    readonly name: string;
    readonly kind: string;
    readonly active: boolean;
    readonly behindBytes: bigint | null;
  }[];
  readonly replicas: readonly { readonly name: string; readonly state: string | null; readonly sync: string | null }[];
  /** That publish one of the tables. */
  readonly publications: readonly string[];
}

export async function findReplication(db: Queryable, tables: LegacyTables): Promise<Replication> {
  const slots = await db.query<Replication['slots'][number]>(
    `select slot_name as name, slot_type as kind, active,
            (case when not pg_is_in_recovery() then pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) end)::bigint as "behindBytes"
     from pg_replication_slots order by 1`,
  );
  const replicas = await db.query<Replication['replicas'][number]>(
    'select application_name as name, state, sync_state as sync from pg_stat_replication order by 1',
  );
  const publications = await db.query<{ name: string }>(
    `select distinct p.pubname as name from pg_publication_tables p
     where format('%I.%I', p.schemaname, p.tablename) = any ($1) order by 1`,
    [Object.values(tables)],
  );
  const { rows } = await db.query<{ walLevel: string; isReplica: boolean }>(
    `select current_setting('wal_level') as "walLevel", pg_is_in_recovery() as "isReplica"`,
  );
  return {
    walLevel: rows[0]?.walLevel ?? '',
    isReplica: rows[0]?.isReplica ?? false,
    slots: slots.rows,
    replicas: replicas.rows,
    publications: publications.rows.map(({ name }) => name),
  };
}
