import { type Check, type CheckResult, runEach, type VerificationWatch } from '../db/checks.ts';
import type { Tx } from '../db/pool.ts';
import { findInstallations, type Installation } from './installations.ts';
import { ofAlias } from './sql/literals.ts';
import { accountRequestSql, differingRowsSql } from './sql/rows.ts';

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

function stateChecks({ machine, table }: Installation): readonly Check[] {
  const { name, old } = machine;
  return [
    {
      name: `the ${name} machine is what is declared`,
      unit: 'edges',
      examined: `select count(*) from states.edges e where e.machine = '${name}'`,
      faults: `select d.fault from (${differingRowsSql(machine)}) as d (fault) order by 1`,
    },
    {
      name: `every ${name} is in the state that its history ends in`,
      unit: 'rows',
      examined: `select count(*) from ${table}`,
      faults: `
      select case when t.state is null then format('%s %s is not taken in yet: liventix states install %1$s', '${name}', t.id)
                  else format('%s %s is %s, and its history ends in %s', '${name}', t.id, t.state, coalesce(h.to_state, 'nothing')) end
      from ${table} t
      left join lateral (
        select x.to_state from states.history x
        where x.subject_id = t.id and x.machine = '${name}'
        order by x.id desc
        limit 1
      ) h on true
      where h.to_state is distinct from t.state::text or t.state is null
      order by t.id`,
    },
    {
      name: `every ${name} history goes on where it stood`,
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
    ...(old === undefined
      ? []
      : [
          {
            name: `every ${name} shows its state to old code`,
            unit: 'rows',
            examined: `select count(*) from ${table}`,
            faults: `
      select format('%s %s is %s, and old code is shown %s', '${name}', t.id, t.state, t.${old.column})
      from ${table} t
      where states.${name}_shown(t.state::text, t.${old.column}::text) <> t.${old.column}::text
      order by t.id`,
          },
        ]),
  ];
}

function moneyChecks({ machine, table }: Installation): readonly Check[] {
  const { name, money } = machine;
  const { kept } = money ?? {};
  const account = kept && money?.accounts[kept.account];
  if (kept === undefined || account === undefined) return [];
  const states = (of: readonly string[]) => `(${of.map((state) => `'${state}'`).join(', ')})`;
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
               case when t.state::text in ${states(kept.inStates)} then (${ofAlias(kept.cents)})::bigint else 0 end as implied,
               case when t.state::text in ${states(kept.frozenIn)} then 'frozen' else 'open' end as status
        from (select * from ${table} where state is not null) t
        cross join lateral (select states.account_id(jsonb_strip_nulls(${ofAlias(accountRequestSql(account))})) as account_id offset 0) k
        left join lateral (
          select -x.balance_cents as actual, x.status as actual_status
          from payments.balances x where x.account_id = k.account_id and x.book_id = 1
        ) b on true
      ) r
      where coalesce(r.actual, 0) <> r.implied or coalesce(r.actual_status, r.status) <> r.status
      order by r.id`,
    },
    {
      name: `nothing is in ${account.type} accounts that no transition put there`,
      unit: 'accounts',
      examined: `select count(*) from payments.accounts a where a.type = '${account.type}' and a.book_id = 1`,
      faults: `
      select format('transaction %s on account %s was made by no transition', n.transaction_id, n.account_id)
      from payments.accounts a
      join payments.entries n on n.account_id = a.id and n.book_id = 1
      where a.type = '${account.type}' and a.book_id = 1
        and n.created_at > (select m.installed_at from states.machines m where m.name = '${name}')
        and not exists (select from states.ledger_events l where l.event_id = n.transaction_id)
      union all
      select format('account %s has %s cents, and %s %s is gone', l.event_id, -b.balance_cents, '${name}', l.subject_id)
      from states.ledger_events l
      join payments.accounts a on a.id = l.event_id and a.book_id = 1 and a.type = '${account.type}'
      join payments.balances b on b.account_id = a.id and b.book_id = 1
      where l.machine = '${name}' and b.balance_cents <> 0 and not exists (select from ${table} t where t.id = l.subject_id)
      order by 1`,
    },
  ];
}
