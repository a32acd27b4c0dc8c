import type { Tx } from '../db/pool.ts';
import { type Check, type CheckResult, runEach, type VerificationWatch } from '../ledger/checks.ts';
import { findInstallations, type Installation } from './installations.ts';
import { accountRequestSql } from './sql/rows.ts';

/** What the ledger and the machines promise each other, for `books verify`: of each row that keeps an account. */
export async function checkMoneyOfStates(tx: Tx, watch: VerificationWatch): Promise<readonly CheckResult[]> {
  return runEach(tx, (await findInstallations(tx)).flatMap(moneyChecks), watch);
}

/** Everything that the installed machines promise. */
export async function checkMachines(tx: Tx, watch: VerificationWatch): Promise<readonly CheckResult[]> {
  const installations = await findInstallations(tx);
  return runEach(
    tx,
    installations.flatMap((each) => [...stateChecks(each), ...moneyChecks(each)]),
    watch,
  );
}

function stateChecks({ machine: { name }, table }: Installation): readonly Check[] {
  return [
    {
      name: `every ${name} is in the state that its history ends in`,
      unit: 'rows',
      examined: `select count(*) from ${table}`,
      faults: `
      select format('%s %s is %s, and its history ends in %s', '${name}', t.id, coalesce(t.state::text, 'in no state'), coalesce(h.to_state, 'nothing'))
      from ${table} t
      left join lateral (
        select x.to_state from states.history x
        where x.subject_id = t.id and x.machine = '${name}'
        order by x.id desc
        limit 1
      ) h on true
      where h.to_state is distinct from t.state::text
      order by t.id`,
    },
    {
      name: `every history of a ${name} goes on where it stood`,
      unit: 'changes',
      examined: `select count(*) from states.history h where h.machine = '${name}'`,
      faults: `
      select format('%s %s went from %s (change %s), and had been %s', '${name}', h.subject_id, coalesce(h.from_state, 'nothing'), h.id, coalesce(h.before, 'nothing'))
      from (
        select x.*, lag(x.to_state) over (partition by x.subject_id order by x.id) as before
        from states.history x where x.machine = '${name}'
      ) h
      where h.event <> 'adopted' and h.from_state is distinct from h.before
      order by h.subject_id, h.id`,
    },
  ];
}

function moneyChecks({ machine, table }: Installation): readonly Check[] {
  const { name, money } = machine;
  const { kept } = money ?? {};
  const account = kept && money?.accounts[kept.account];
  if (kept === undefined || account === undefined) return [];
  const states = (of: readonly string[]) => `(${of.map((state) => `'${state}'`).join(', ')})`;
  const ofRow = (sql: string) => sql.replaceAll('($1).', 't.');
  return [
    {
      name: `every ${name} account has what the state of its row implies`,
      unit: 'rows',
      examined: `select count(*) from ${table}`,
      faults: `
      select format('%s %s is %s, which implies %s cents and %s in its account %s: it has %s and is %s',
        '${name}', r.id, r.state, r.implied, r.status, r.account_id, coalesce(r.actual, 0), coalesce(r.actual_status, 'not opened'))
      from (
        select t.id, t.state, k.account_id, b.actual, b.actual_status,
               case when t.state::text in ${states(kept.inStates)} then (${kept.cents.replaceAll('row.', 't.')})::bigint else 0 end as implied,
               case when t.state::text in ${states(kept.frozenIn)} then 'frozen' else 'open' end as status
        from ${table} t
        cross join lateral (select states.account_id(jsonb_strip_nulls(${ofRow(accountRequestSql(account))})) as account_id offset 0) k
        left join lateral (
          select -x.balance_cents as actual, x.status as actual_status
          from payments.balances x where x.account_id = k.account_id and x.book_id = 1
        ) b on true
      ) r
      where coalesce(r.actual, 0) <> r.implied or coalesce(r.actual_status, r.status) <> r.status
      order by r.id`,
    },
    {
      name: `no ${name} account has a posting that no transition made, nor is without its row`,
      unit: 'accounts',
      examined: `select count(*) from states.ledger_events l join payments.accounts a on a.id = l.event_id and a.book_id = 1
                 where l.machine = '${name}' and a.type = '${account.type}'`,
      faults: `
      with kept as (
        select a.id, l.subject_id
        from states.ledger_events l join payments.accounts a on a.id = l.event_id and a.book_id = 1
        where l.machine = '${name}' and a.type = '${account.type}'
      )
      select format('transaction %s on account %s of %s %s was made by no transition', n.transaction_id, k.id, '${name}', k.subject_id)
      from kept k
      join payments.entries n on n.account_id = k.id and n.book_id = 1
      where not exists (select from states.ledger_events l where l.event_id = n.transaction_id)
      union all
      select format('account %s has %s cents, and %s %s is gone', k.id, -b.balance_cents, '${name}', k.subject_id)
      from kept k
      join payments.balances b on b.account_id = k.id and b.book_id = 1
      where b.balance_cents <> 0 and not exists (select from ${table} t where t.id = k.subject_id)
      order by 1`,
    },
  ];
}
