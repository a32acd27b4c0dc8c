import type { Tx } from '../db/pool.ts';
import { GUARD_FAULTS, GUARD_FUNCTIONS, GUARDS } from './guards.ts';
import { PERIOD_CHECKS } from './periods.ts';
import { SEAL_CHAIN_FAULTS, SEALED_EVENT_FAULTS } from './seal-checks.ts';
import { ACCOUNT_STATE_FAULTS, HOLD_FAULTS, REVERSAL_FAULTS } from './state-checks.ts';

export interface CheckResult {
  readonly check: string;
  readonly holds: boolean;
  /** How many things were looked at. */
  readonly examined: bigint;
  readonly unit: string;
  /** How many of them are at fault. */
  readonly faults: bigint;
  /** The first of them, each with its id and both values. */
  readonly first: readonly string[];
  readonly seconds: number;
}

/** Who wants to know while a verification goes on. */
export interface VerificationWatch {
  readonly onBegin?: (check: string) => void;
  readonly onEnd?: (result: CheckResult) => void;
}

interface CheckHead {
  readonly name: string;
  readonly unit: string;
  /** SELECT of how many things there are. */
  readonly examined: string;
  /** How many faults are named; NAMED_FAULTS when left out. */
  readonly named?: number;
}

interface Check extends CheckHead {
  /** SELECT of one text per fault. */
  readonly faults: string;
}

/** Checks that one pass over the rows answers. */
interface Pass {
  readonly checks: readonly (CheckHead & { readonly kind: string })[];
  /** SELECT of a check's kind and one text, per fault. */
  readonly faults: string;
}

const NAMED_FAULTS = 5;

/** The normal side of every account type that the migrations make. A test compares them with a fresh migration. */
export const NORMAL_SIDES: Readonly<Record<string, 'debit' | 'credit'>> = {
  cash: 'credit',
  escrow: 'credit',
  receivable: 'debit',
  payable: 'credit',
  revenue: 'credit',
  fees: 'debit',
  taxes: 'credit',
  contra_revenue: 'debit',
  adjustments: 'debit',
  suspense: 'debit',
};

/** The currencies of the migrations by their exponent. A test compares them with a fresh migration. */
export const CURRENCIES_BY_EXPONENT: Readonly<Record<number, string>> = {
  0: 'BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF',
  2: [
    'AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW',
    'CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF',
    'IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK',
    'MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP',
    'SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG',
    'YER ZAR ZMW ZWG',
  ].join(' '),
  3: 'BHD IQD JOD KWD LYD OMR TND',
  4: 'CLF UYW',
};

const EXPECTED_SIDES = Object.entries(NORMAL_SIDES).map(([type, side]) => `('${type}', '${side}')`);
const EXPECTED_EXPONENTS = Object.entries(CURRENCIES_BY_EXPONENT).map(([places, codes]) => `(${places}, '${codes}')`);

/** Every leg that the events of the log say there is, with what its entry must say; nothing here fails on a spoilt payload. */
const REPLAYED_LEGS = `
  select e.book_id, e.position * 1024 + l.ordinality as id, e.position as event_position,
         sum(1) over in_account as account_seq, payments.try_amount(l.value ->> 'amount_cents') as amount_cents,
         sum(payments.try_amount(l.value ->> 'amount_cents')) over in_account as balance_after_cents,
         e.effective_at, e.recorded_at as created_at, payments.try_uuid(l.value ->> 'account_id') as account_id,
         e.event_id as transaction_id, l.value ->> 'currency' as currency, e.created_by,
         e.payload ->> 'reference_type' as reference_type, e.payload ->> 'reference_id' as reference_id,
         coalesce(l.value ->> 'description', e.payload ->> 'description') as description,
         coalesce(l.value -> 'metadata', e.payload -> 'metadata', '{}'::jsonb) as metadata
  from payments.events e
  cross join lateral jsonb_array_elements(payments.entries_of(e.payload)) with ordinality as l
  where e.type = 'transaction.posted'
  window in_account as (partition by e.book_id, payments.try_uuid(l.value ->> 'account_id') order by e.position, l.ordinality
                        rows unbounded preceding)`;

const ENTRY_COLUMNS = [
  'event_position',
  'account_seq',
  'amount_cents',
  'balance_after_cents',
  'effective_at',
  'created_at',
  'account_id',
  'transaction_id',
  'currency',
  'created_by',
  'reference_type',
  'reference_id',
  'description',
  'metadata',
];

// Causes before what follows from them, so that the first check that fails says where to look: the guards, the log, what was
// projected from it, then what only sums that up.
const CHECKS: readonly (Check | Pass)[] = [
  {
    name: 'every guard of the ledger is in place',
    unit: 'triggers',
    examined: `select ${GUARDS.length}::bigint`,
    faults: `
      select format('%s %s; put it back: %s', guard, state, repair)
      from (${GUARD_FAULTS}) f`,
    named: GUARDS.length + Object.keys(GUARD_FUNCTIONS).length,
  },
  {
    // What somebody added to it is his own: only what the migrations made is compared.
    name: 'the chart of accounts is what the migrations say',
    unit: 'types, currencies',
    examined: `
      select (select count(*) from payments.account_types)
        + (select count(*) from ref.currencies c where exists (select from payments.accounts a where a.currency = c.code))`,
    faults: `
      select format('account type %s %s', e.type, coalesce('has the normal side ' || t.normal_side || ', expected ' || e.side, 'is missing'))
      from (values ${EXPECTED_SIDES.join(', ')}) as e (type, side)
      left join payments.account_types t using (type)
      where t.normal_side is distinct from e.side
      union all
      select format('currency %s has %s decimal places, expected %s', c.code, c.decimal_places, e.places)
      from (values ${EXPECTED_EXPONENTS.join(', ')}) as e (places, codes)
      join ref.currencies c on c.code = any (string_to_array(e.codes, ' '))
      where c.decimal_places <> e.places and exists (select from payments.accounts a where a.currency = c.code)
      order by 1`,
  },
  {
    name: 'no event changed since it was written',
    unit: 'events',
    examined: 'select count(*) from payments.events',
    faults: `
      select format('event %s (%s %s) does not match its leaf hash', position, type, event_id)
      from payments.events
      where leaf_hash is distinct from payments.event_leaf_hash(book_id, position, event_id, effective_at, recorded_at, type,
        created_by, idempotency_scope, idempotency_key, request_hash, payload)
      order by position`,
  },
  {
    name: 'every seal follows from the one before',
    unit: 'seals',
    examined: 'select count(*) from payments.seals',
    faults: SEAL_CHAIN_FAULTS,
  },
  {
    checks: [
      {
        kind: 'event',
        name: 'every sealed event is there, as it was sealed',
        unit: 'sealed events',
        examined: 'select coalesce(sum(event_count), 0) from payments.seals',
      },
      {
        kind: 'tile',
        name: 'no sealed tile differs',
        unit: 'tiles',
        examined: 'select count(*) from payments.seal_tiles',
      },
    ],
    faults: SEALED_EVENT_FAULTS,
  },
  {
    name: 'the accounts are what the log opened',
    unit: 'accounts',
    examined: 'select count(*) from payments.accounts',
    faults: `
      select format('account %s %s', id, case
               when a.event_position is null then 'is in the log and not among the accounts'
               when e.position is null then 'has no event in the log'
               else 'differs from its event ' || e.position end)
      from payments.accounts a
      full join (
        select book_id, event_id as id, position, recorded_at, payload from payments.events where type = 'account.opened'
      ) e using (book_id, id)
      where a.event_position is distinct from e.position
        or (a.type, a.currency, a.name, a.user_id::text, a.organization_id::text, a.created_at) is distinct from
           (e.payload ->> 'type', e.payload ->> 'currency', e.payload ->> 'name', e.payload ->> 'user_id',
            e.payload ->> 'organization_id', e.recorded_at)
      order by id`,
  },
  {
    name: 'the entries are what the log posted',
    unit: 'entries',
    examined: 'select count(*) from payments.entries',
    faults: `
      select format('entry %s %s', id, case
               when e.amount_cents is null then format('(event %s, transaction %s, account %s, %s %s) is in the log and not among the entries',
                 r.event_position, r.transaction_id, r.account_id, r.amount_cents, r.currency)
               when r.amount_cents is null then format('(transaction %s, account %s, %s %s) has no event in the log',
                 e.transaction_id, e.account_id, e.amount_cents, e.currency)
               else format('of transaction %s differs from its event %s: %s', e.transaction_id, r.event_position, concat_ws(', ',
                 ${ENTRY_COLUMNS.map(
                   (column) =>
                     `case when e.${column} is distinct from r.${column} then format('${column} is %s, posted was %s', e.${column}, r.${column}) end`,
                 ).join(',\n                 ')})) end)
      from payments.entries e
      full join (${REPLAYED_LEGS}) r using (book_id, id)
      where ${ENTRY_COLUMNS.map((column) => `e.${column} is distinct from r.${column}`).join('\n        or ')}
      order by id`,
  },
  {
    name: 'the holds are what the log placed, captured and released',
    unit: 'hold entries',
    examined: 'select count(*) from payments.hold_entries',
    faults: HOLD_FAULTS,
  },
  {
    name: 'the reversals are what the log says, and none exceeds what it reverses',
    unit: 'reversals',
    examined: 'select count(*) from payments.reversals',
    faults: REVERSAL_FAULTS,
  },
  {
    name: "every account's limits, state and held amount are what the log says",
    unit: 'accounts',
    examined: 'select count(*) from payments.accounts',
    faults: ACCOUNT_STATE_FAULTS,
  },
  {
    name: 'every transaction sums to zero per currency',
    unit: 'transactions',
    examined: `select count(*) from payments.events where type = 'transaction.posted'`,
    faults: `
      select format('transaction %s sums to %s %s', transaction_id, sum(amount_cents), currency)
      from payments.entries group by book_id, transaction_id, currency having sum(amount_cents) <> 0
      order by min(id)`,
  },
  {
    name: 'every book sums to zero per currency',
    unit: 'entries',
    examined: 'select count(*) from payments.entries',
    faults: `
      select format('book %s sums to %s %s', book_id, sum(amount_cents), currency)
      from payments.entries group by book_id, currency having sum(amount_cents) <> 0 order by book_id, currency`,
  },
  {
    name: 'every account numbers its entries without gaps and carries its balance',
    unit: 'entries',
    examined: 'select count(*) from payments.entries',
    faults: `
      select format('entry %s is number %s of account %s with balance %s after it, expected number %s and %s', id,
                    account_seq, account_id, balance_after_cents, expected_seq, expected_balance)
      from (
        select id, account_id, account_seq, balance_after_cents, row_number() over in_account as expected_seq,
               sum(amount_cents) over in_account as expected_balance
        from payments.entries
        window in_account as (partition by book_id, account_id order by account_seq rows unbounded preceding)
      ) history
      where account_seq <> expected_seq or balance_after_cents <> expected_balance
      order by id`,
  },
  {
    name: 'every balance is the sum of its entries',
    unit: 'accounts',
    examined: 'select count(*) from payments.accounts',
    faults: `
      select format('account %s has balance %s after %s entries, its %s entries sum to %s', account_id,
                    coalesce(b.balance_cents::text, 'none'), coalesce(b.last_seq::text, 'no'), coalesce(s.entries, 0),
                    coalesce(s.cents, 0))
      from payments.balances b
      full join (
        select book_id, account_id, sum(amount_cents) as cents, count(*) as entries
        from payments.entries group by book_id, account_id
      ) s using (book_id, account_id)
      full join (select book_id, id as account_id from payments.accounts) a using (book_id, account_id)
      where b.balance_cents is distinct from coalesce(s.cents, 0) or b.last_seq is distinct from coalesce(s.entries, 0)
      order by account_id`,
  },
  ...PERIOD_CHECKS,
];

/** What a verification runs in: everything it reads is of one instant, and it changes nothing. */
export const ONE_SNAPSHOT = { mode: 'isolation level repeatable read read only' } as const;

/**
 * Recomputes everything that the ledger promises, in a transaction of the caller's: one of `ONE_SNAPSHOT`. One result a
 * check; changes nothing.
 */
export function runChecks(tx: Tx, watch: VerificationWatch = {}): Promise<CheckResult[]> {
  return runEach(CHECKS, tx, watch);
}

/** As `runChecks`, of the closed periods alone. */
export function runPeriodChecks(tx: Tx, watch: VerificationWatch = {}): Promise<CheckResult[]> {
  return runEach(PERIOD_CHECKS, tx, watch);
}

async function runEach(checks: readonly (Check | Pass)[], tx: Tx, watch: VerificationWatch): Promise<CheckResult[]> {
  const results: CheckResult[] = [];
  for (const step of checks) {
    const pass = 'checks' in step ? step : passOf(step);
    for (const { name } of pass.checks.slice(0, 1)) watch.onBegin?.(name);
    for (const result of await runPass(tx, pass)) {
      watch.onEnd?.(result);
      results.push(result);
    }
  }
  return results;
}

const passOf = ({ faults, ...check }: Check): Pass => ({
  checks: [{ ...check, kind: '' }],
  faults: `select '' as kind, f.message from (${faults}) as f (message)`,
});

/** One result a check of the pass; the time that it took is the first one's. */
async function runPass(tx: Tx, { checks, faults }: Pass): Promise<CheckResult[]> {
  const startedAt = performance.now();
  const heads = checks.map(
    ({ kind, examined, named }) => `('${kind}', (${examined})::bigint, ${named ?? NAMED_FAULTS})`,
  );
  const { rows } = await tx.query<{ kind: string; examined: bigint; faults: bigint; first: string[] }>(
    `with fault as materialized (
       select f.kind, f.message, row_number() over (partition by f.kind order by f.nth) as nth
       from (select row_number() over () as nth, f.* from (${faults}) as f (kind, message)) f
     )
     select c.kind, c.examined, count(f.nth) as faults,
            coalesce(array_agg(f.message order by f.nth) filter (where f.nth <= c.named), '{}') as first
     from (values ${heads.join(', ')}) as c (kind, examined, named)
     left join fault f using (kind)
     group by c.kind, c.examined, c.named`,
  );
  const seconds = (performance.now() - startedAt) / 1_000;
  return checks.map(({ kind, name, unit }, nth) => {
    const found = rows.find((row) => row.kind === kind) ?? { examined: 0n, faults: 0n, first: [] };
    return {
      check: name,
      holds: found.faults === 0n,
      examined: found.examined,
      unit,
      faults: found.faults,
      first: found.first,
      seconds: nth === 0 ? seconds : 0,
    };
  });
}
