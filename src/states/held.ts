import type { Tx } from '../db/pool.ts';
import { findInstallations, type Installation } from './installations.ts';
import { statesOf } from './machine.ts';
import { literal, ofAlias } from './sql/literals.ts';
import { accountRequestSql } from './sql/rows.ts';

/** The rows of a machine that were in one state, and the money that their accounts had. */
export interface HeldInState {
  readonly machine: string;
  /** The type of the accounts. */
  readonly type: string;
  readonly currency: string;
  /** Null where the machine did not know the row by then. */
  readonly state: string | null;
  readonly rows: bigint;
  /** Credit less debit. */
  readonly heldCents: bigint;
}

/**
 * Per state, what was held before an instant for the rows of each installed machine that keeps an account a row: the states as they were
 * recorded then, the money by what was effective, of the main book, where such accounts are. Reads all entries of these accounts.
 */
export async function heldByState(tx: Tx, until: string): Promise<readonly HeldInState[]> {
  const held: HeldInState[] = [];
  for (const installation of await findInstallations(tx)) held.push(...(await heldOf(tx, installation, until)));
  return held;
}

async function heldOf(tx: Tx, { machine, table }: Installation, until: string): Promise<readonly HeldInState[]> {
  const { name, money } = machine;
  const account = money?.kept && money.accounts[money.kept.account];
  if (account === undefined) return [];
  const { rows } = await tx.query<Omit<HeldInState, 'machine' | 'type' | 'heldCents'> & { heldCents: string }>(
    `with held as materialized (
       select e.account_id, -sum(e.amount_cents) as cents
       from payments.accounts a
       join payments.entries e on e.account_id = a.id and e.book_id = 1 and e.effective_at < $1
       where a.book_id = 1 and a.type = ${literal(account.type)}
       group by e.account_id
     )
     select r.currency, r.state, count(*) as rows, coalesce(sum(h.cents), 0)::text as "heldCents"
     from (
       select ${ofAlias(account.currency)} as currency, x.to_state as state,
              states.account_id(jsonb_strip_nulls(${ofAlias(accountRequestSql(account))})) as account_id
       from (select * from ${table} where state is not null) t
       left join lateral (
         select y.to_state from states.history y
         where y.subject_id = t.id and y.machine = ${literal(name)} and y.changed_at < $1
         order by y.id desc
         limit 1
       ) x on true
       offset 0
     ) r
     left join held h using (account_id)
     -- Rows that came later are not there yet.
     where r.state is not null or h.cents <> 0
     group by r.currency, r.state
     order by r.currency, array_position($2::text[], r.state)`,
    [until, statesOf(machine)],
  );
  return rows.map(({ heldCents, ...row }) => ({
    machine: name,
    type: account.type,
    ...row,
    heldCents: BigInt(heldCents),
  }));
}
