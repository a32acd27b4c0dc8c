import type { Tx } from '../../db/pool.ts';
import type { LegacyTables } from '../legacy.ts';
import { AS_FOUND, type Source } from '../sources.ts';

/** Something about old rows or wallets that the backfill does not book as any other. */
export interface Hazard {
  readonly hazard: string;
  readonly table: string;
  readonly count: bigint;
  /** What it comes to; of `balance_differs` the balances less their rows. Null where it moves no money. */
  readonly cents: bigint | null;
  /** Some of them, by id. */
  readonly examples: readonly string[];
  readonly outcome: string;
  /** Whether the backfill does not come to its end, or ends with a difference, before somebody puts it right. */
  readonly blocks: boolean;
}

const EXAMPLES = 5;
/** Beyond that a key or a reference is kept as its hash, as in replay.bounded. */
const MAX_KEY_BYTES = 500;
const LARGE_METADATA_BYTES = 1_048_576;
/** A smaller value is not compressed, and a compressed one of a megabyte is larger. */
const NEVER_LARGE_BYTES = 2_000;

const OUTCOMES: Readonly<Record<string, string>> = {
  duplicate_credit: 'booked, against suspense duplicate_credit',
  cumulative_refund: 'booked, what was refunded before against suspense cumulative_refund',
  unreferenced_credit: 'booked, against suspense unreferenced_credit: no invoice says that it was paid',
  orphan: 'booked, against suspense orphan: its invoice is gone',
  wrong_sign: 'booked, against suspense wrong_sign',
  zero_row: 'noted in the log, booked nowhere',
  duplicate_spend: 'booked, against suspense duplicate_spend',
  unexplained:
    'of a type that no flow is known for: booked as it was, against suspense unexplained, for which somebody must sign before the cut-over',
};

/** What the survey will find, by cause. Reads the old tables alone. */
export async function surveyHazards(tx: Tx, source: Source, tables: LegacyTables): Promise<Hazard[]> {
  const { rows } = await tx.query<{ cause: string; count: bigint; cents: string; examples: string[] }>(
    `select f.cause, count(*) as count, sum(t.credits_delta - f.explained_cents)::text as cents,
            (array_agg(f.legacy_id::text order by f.legacy_id))[1:${EXAMPLES}] as examples
     from (${source.surveySql(tables, AS_FOUND)}) f
     join ${tables[source.transactions]} t on t.id = f.legacy_id
     group by f.cause
     order by f.cause`,
  );
  return rows.map(({ cause, count, cents, examples }) => ({
    hazard: cause,
    table: source.transactions,
    count,
    cents: cause === 'zero_row' ? null : BigInt(cents),
    examples,
    outcome: OUTCOMES[cause] ?? '',
    blocks: false,
  }));
}

interface RowHazard {
  readonly hazard: string;
  /** SQL over row `t`. */
  readonly condition: string;
  readonly outcome: string;
}

function rowHazards(source: Source, tables: LegacyTables): RowHazard[] {
  const isUser = source.name === 'wallet_transactions';
  const key = isUser ? 't.idempotency_key' : `coalesce(t.metadata ->> 'idempotency_key', t.stripe_event_id)`;
  return [
    {
      hazard: 'row_without_wallet',
      condition: `not exists (select from ${tables[source.wallets]} w where w.id = t.wallet_id)`,
      outcome: 'noted in the log as orphan, booked nowhere',
    },
    {
      hazard: 'row_without_time',
      condition: 't.created_at is null',
      outcome: 'brought in after the others, effective when it is recorded',
    },
    {
      hazard: 'row_in_the_future',
      condition: 't.created_at > now() and isfinite(t.created_at)',
      outcome: 'booked, effective then',
    },
    {
      hazard: 'row_at_infinity',
      condition: 'not isfinite(t.created_at)',
      outcome: 'booked, effective at infinity, where no statement shows it: give it a time',
    },
    {
      hazard: 'row_without_amount',
      condition: 't.credits_delta is null',
      outcome: 'noted in the log as zero_row, booked nowhere',
    },
    {
      hazard: 'key_too_long',
      condition: `octet_length(${key}) > ${MAX_KEY_BYTES}`,
      outcome: `kept as its hash: no index takes more than ${MAX_KEY_BYTES} bytes for sure`,
    },
    ...(isUser
      ? [
          {
            hazard: 'reference_too_long',
            condition: `octet_length(t.reference_id) > ${MAX_KEY_BYTES}`,
            outcome: 'kept as its hash',
          },
        ]
      : [
          {
            hazard: 'metadata_over_1_mb',
            condition: `case when pg_column_size(t.metadata) > ${NEVER_LARGE_BYTES} then octet_length(t.metadata::text) > ${LARGE_METADATA_BYTES} end`,
            outcome: 'left behind but for its key, as all metadata is',
          },
        ]),
  ];
}

/** What single rows have about them. */
export async function findRowHazards(tx: Tx, source: Source, tables: LegacyTables): Promise<Hazard[]> {
  const table = tables[source.transactions];
  const hazards = rowHazards(source, tables);
  const counts = hazards.flatMap(({ hazard, condition }) => [
    `count(*) filter (where ${condition})::text as "${hazard}"`,
    `sum(t.credits_delta) filter (where ${condition})::text as "${hazard} cents"`,
  ]);
  const { rows } = await tx.query<Record<string, string | null>>(`select ${counts.join(', ')} from ${table} t`);
  const found: Hazard[] = [];
  for (const { hazard, condition, outcome } of hazards) {
    const count = BigInt(rows[0]?.[hazard] ?? 0);
    if (count === 0n) continue;
    const examples = await tx.query<{ id: string }>(
      `select t.id::text as id from ${table} t where ${condition} order by t.id limit ${EXAMPLES}`,
    );
    const cents = BigInt(rows[0]?.[`${hazard} cents`] ?? 0);
    found.push({
      hazard,
      table: source.transactions,
      count,
      cents,
      examples: examples.rows.map(({ id }) => id),
      outcome,
      blocks: false,
    });
  }
  return found;
}

/** What wallets have about them, and what their rows come to. */
export async function findWalletHazards(tx: Tx, source: Source, tables: LegacyTables): Promise<Hazard[]> {
  const { rows } = await tx.query<{ hazard: string; count: bigint; cents: string | null; examples: string[] }>(
    `with history as (
       select t.wallet_id, sum(t.credits_delta) as cents, sum(abs(t.credits_delta::numeric)) as moved from ${tables[source.transactions]} t group by t.wallet_id
     ), wallet as materialized (
       select w.id, w.${source.ownerColumn} as owner_id, w.balance_credits as balance, coalesce(h.cents, 0) as rows_cents, h.moved,
              count(*) over (partition by w.${source.ownerColumn}) as of_owner
       from ${tables[source.wallets]} w left join history h on h.wallet_id = w.id
     ), reach as (
       select case when atttypid = 'integer'::regtype then 2147483647 else 9223372036854775807 end as most
       from pg_attribute where attrelid = '${tables[source.wallets]}'::regclass and attname = 'balance_credits'
     ), hazard as (
       select 1 as nth, 'balance_differs' as hazard, w.id, w.balance - w.rows_cents as cents, w.of_owner,
              format('%s holds %s, its rows come to %s', w.id, w.balance, w.rows_cents) as example
       from wallet w where w.balance <> w.rows_cents
       union all
       select 2, 'wallet_without_balance', w.id, 0, 0, w.id::text from wallet w where w.balance is null
       union all
       select 3, 'wallet_without_owner', w.id, w.balance, 0, w.id::text from wallet w where w.owner_id is null
       union all
       select 4, 'owner_of_several_wallets', w.id, w.balance, 0, format('%s of %s', w.id, w.owner_id)
       from wallet w where w.owner_id is not null and w.of_owner > 1
       union all
       select 5, 'rows_beyond_the_column', w.id, w.rows_cents, 0, format('%s: its rows come to %s', w.id, w.rows_cents)
       from wallet w cross join reach r where abs(w.rows_cents) > r.most
       union all
       select 6, 'sums_beyond_64_bits', null, sum(w.moved), 0, 'all rows together'
       from wallet w having sum(w.moved) > 9223372036854775807
     ), numbered as (
       select h.*, row_number() over (partition by h.nth order by abs(h.cents) desc, h.id) as place from hazard h
     )
     select hazard, count(*) as count, sum(cents)::text as cents,
            array_agg(example order by place) filter (where place <= ${EXAMPLES}) as examples
     from numbered group by nth, hazard order by nth`,
  );
  return rows.map(({ hazard, count, cents, examples }) => ({
    hazard,
    table: source.wallets,
    count,
    cents: cents === null ? null : BigInt(cents),
    examples,
    outcome: WALLET_OUTCOMES[hazard]?.outcome ?? '',
    blocks: WALLET_OUTCOMES[hazard]?.blocks ?? false,
  }));
}

const WALLET_OUTCOMES: Readonly<Record<string, { readonly outcome: string; readonly blocks: boolean }>> = {
  balance_differs: { outcome: 'the difference is booked against suspense, by cause', blocks: false },
  wallet_without_balance: { outcome: 'named as different: give it a balance', blocks: true },
  wallet_without_owner: { outcome: 'it has no account, and is named as different: give it an owner', blocks: true },
  owner_of_several_wallets: { outcome: 'they share one account, and are named as different: merge them', blocks: true },
  rows_beyond_the_column: { outcome: 'booked; but its column could not mirror such a balance', blocks: false },
  sums_beyond_64_bits: { outcome: 'an account may pass 64 bits, where the backfill stops', blocks: true },
};
