import { type Check, type CheckResult, type Pass, runEach, type VerificationWatch } from '../db/checks.ts';
import type { Tx } from '../db/pool.ts';
import { projectionChecks, sumChecks } from './entry-checks.ts';
import { type Glance, glance, LEAF_DIFFERS } from './glance.ts';
import { GUARD_COUNT, GUARD_FAULTS } from './guards.ts';
import { periodChecks } from './periods.ts';
import { type Rows, rowsOf, type Scope } from './scope.ts';
import { sealChainFaults, sealedEventFaults } from './seal-checks.ts';
import { accountStateFaults, holdFaults, reversalFaults, slotFaults } from './state-checks.ts';

export type { CheckResult, VerificationWatch } from '../db/checks.ts';

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

export const GUARDS_CHECK = 'every guard of the ledger is in place';

// Causes before what follows from them, so that the first check that fails says where to look: the guards, the log, what was
// projected from it, then what only sums that up.
function checksOf(rows: Rows, look: () => Promise<Glance>): (Check | Pass)[] {
  return [
    {
      name: GUARDS_CHECK,
      unit: 'guards',
      examined: `select ${GUARD_COUNT}::bigint`,
      faults: `
      select format('%s %s; put it back: %s%s', guard, state, repair, case when is_sql then ';' end)
      from (${GUARD_FAULTS}) f`,
      named: GUARD_COUNT,
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
    ...logChecks(rows, async () => (await look()).isUnchanged),
    ...projectionChecks(rows, look),
    {
      name: 'the holds are what the log placed, captured and released',
      unit: 'hold entries',
      examined: `select count(*) from ${rows.holdEntries} h`,
      faults: holdFaults(rows),
    },
    {
      name: 'the reversals are what the log says, and none exceeds what it reverses',
      unit: 'reversals',
      examined: `select count(*) from ${rows.reversals} r`,
      faults: reversalFaults(rows),
    },
    {
      name: "every account's limits, state and held amount are what the log says",
      unit: 'accounts and slots',
      examined: `select count(*) from ${rows.balances} b`,
      faults: accountStateFaults(rows),
    },
    {
      name: 'the slots are what the log says, and what slots must be',
      unit: 'slots',
      examined: `select count(*) from ${rows.accountSlots} s`,
      faults: slotFaults(rows),
    },
    ...sumChecks(rows, look),
    ...periodChecks(rows),
  ];
}

// Whether the log itself is as it was written and sealed.
function logChecks(rows: Rows, isUnchanged?: () => Promise<boolean>): (Check | Pass)[] {
  return [
    {
      name: 'no event changed since it was written',
      unit: 'events',
      examined: `select count(*) from ${rows.events} e`,
      ...(isUnchanged === undefined ? {} : { isCleared: isUnchanged }),
      faults: `
      select format('event %s (%s %s) does not match its leaf hash', position, type, event_id)
      from ${rows.events} e
      where ${LEAF_DIFFERS}
      order by position`,
    },
    {
      name: 'every seal follows from the one before',
      unit: 'seals',
      examined: `select count(*) from ${rows.seals} s where s.seal_number > ${rows.afterSeal}`,
      faults: sealChainFaults(rows),
    },
    {
      checks: [
        {
          kind: 'event',
          name: 'every sealed event is there, as it was sealed',
          unit: 'sealed events',
          examined: `select coalesce(sum(event_count), 0) from ${rows.seals} s where s.seal_number > ${rows.afterSeal}`,
        },
        {
          kind: 'tile',
          name: 'no sealed tile differs',
          unit: 'tiles',
          examined: `select count(*) from ${rows.sealTiles} t`,
        },
      ],
      faults: sealedEventFaults(rows),
    },
  ];
}

/** Sorts and hashes of large books; PostgreSQL's default is made for requests. */
const WORK_MEMORY = '128MB';

/**
 * Recomputes everything that the ledger promises, in a transaction of the caller's: one of `ONE_SNAPSHOT`. One result a
 * check; changes nothing. All of it is looked at as a whole first (`glance`), and row by row where that finds a difference.
 * @param scope all books, when left out. Since a seal, time grows with what is new: what the seal covers counts as verified,
 *   and of older rows only those are looked at that new ones touched
 */
export async function runChecks(tx: Tx, watch: VerificationWatch = {}, scope: Scope = {}): Promise<CheckResult[]> {
  const rows = rowsOf(scope);
  await tx.query(`set local work_mem = '${WORK_MEMORY}'`);
  let seen: Promise<Glance> | undefined;
  const look = () => {
    seen ??= glance(tx, rows);
    return seen;
  };
  return runEach(tx, checksOf(rows, look), watch);
}

/** As `runChecks`, of the log and its seals alone. */
export function runLogChecks(tx: Tx, watch: VerificationWatch = {}, scope: Scope = {}): Promise<CheckResult[]> {
  return runEach(tx, logChecks(rowsOf(scope)), watch);
}

/** As `runChecks`, of the closed periods alone. */
export function runPeriodChecks(tx: Tx, watch: VerificationWatch = {}): Promise<CheckResult[]> {
  return runEach(tx, periodChecks(rowsOf({})), watch);
}
