import { bothWidths } from '../html/drawing.ts';
import { html, type Markup } from '../html/markup.ts';
import { formatCount, formatMoney, type View } from '../html/view.ts';
import type { CauseMovement, CurrencyMovement, Turnover, TypeMovement } from '../ledger/period-figures.ts';
import { balanceChart, type Point, turnoverChart } from './charts.ts';
import { pointsOf } from './points.ts';
import { escrowOf, type Holding, type Report } from './report.ts';
import { type Column, centsColumn, countColumn, tableOf } from './table.ts';

const noFigures = html`<p class="faint">No figures: nothing is effective before the end of the period.</p>`;

/** The trial balance at the end, and what led to it, by account type. */
export function bookPart({ figures: { currencies } }: Report, view: View): Markup {
  return html`<h2>Trial balance at the end</h2>
${currencies.length === 0 ? noFigures : currencies.map((each) => trialBalance(each, view))}
<h2>Movements by account type</h2>
${currencies.length === 0 ? noFigures : currencies.map((each) => movements(each, view))}`;
}

type TypeLine = Pick<TypeMovement, 'type' | 'accounts'> & CurrencyMovement['total'];

/** Its accounts belong to one type each. */
const totalOf = ({ total, types }: CurrencyMovement): TypeLine => ({
  type: 'total',
  accounts: types.reduce((sum, { accounts }) => sum + accounts, 0n),
  ...total,
});

const trialBalance = (movement: CurrencyMovement, view: View): Markup => {
  const as = { decimalPlaces: movement.decimalPlaces, view };
  const columns: readonly Column<TypeLine>[] = [
    { title: 'Type', cell: ({ type }) => type },
    countColumn('Accounts', ({ accounts }) => accounts, view),
    centsColumn('Debit', ({ debitCents }) => debitCents, as),
    centsColumn('Credit', ({ creditCents }) => creditCents, as),
    centsColumn('Balance', ({ closingCents }) => closingCents, as),
  ];
  return tableOf(`Trial balance in ${movement.currency}`, columns, { rows: movement.types, total: totalOf(movement) });
};

const movements = (movement: CurrencyMovement, view: View): Markup => {
  const as = { decimalPlaces: movement.decimalPlaces, view };
  const columns: readonly Column<TypeLine>[] = [
    { title: 'Type', cell: ({ type }) => type },
    centsColumn('Opening', ({ openingCents }) => openingCents, as),
    countColumn('Debits', ({ debits }) => debits, view),
    centsColumn('Debited', ({ debitedCents }) => debitedCents, as),
    countColumn('Credits', ({ credits }) => credits, view),
    centsColumn('Credited', ({ creditedCents }) => creditedCents, as),
    centsColumn('Closing', ({ closingCents }) => closingCents, as),
  ];
  return tableOf(`Movements in ${movement.currency}`, columns, { rows: movement.types, total: totalOf(movement) });
};

/** Beyond, the tables alone. */
const MOST_CHARTED = 12;

export function chartPart({ figures: { currencies }, period }: Report, view: View): Markup {
  if (currencies.length === 0) return html``;
  const entriesOf = ({ turnover }: CurrencyMovement) => turnover.reduce((sum, { entries }) => sum + entries, 0n);
  const busiest = currencies.toSorted((one, other) => Number(entriesOf(other) - entriesOf(one))).slice(0, MOST_CHARTED);
  const charted = currencies.filter((each) => busiest.includes(each));
  const rest = currencies.length - charted.length;
  return html`<h2>Charts</h2>
${charted.map((movement) => chartsOf(movement, pointsOf(movement.turnover, period, view.locale), view))}
${rest === 0 ? '' : html`<p class="faint">The ${rest} other currencies, with fewer entries, have no charts; their figures are in the tables.</p>`}`;
}

const chartsOf = (movement: CurrencyMovement, points: readonly Point[], view: View): Markup => {
  const { currency, decimalPlaces, types, turnover } = movement;
  const as = { currency, decimalPlaces, view };
  return html`<div class="whole"><h3>Turnover in ${currency}</h3>
${turnover.length === 0 ? html`<p class="faint">Nothing moved.</p>` : bothWidths((width) => turnoverChart(points, { ...as, width }))}</div>
<div class="whole"><h3>Closing balances in ${currency}</h3>${bothWidths((width) => balanceChart(types, { ...as, width }))}</div>`;
};

export function escrowPart(report: Report, view: View): Markup {
  const holdings = escrowOf(report);
  const intro =
    report.held === null
      ? html`<p class="faint">No state machine that holds money is installed for this book, so what it is held for is not known by state.</p>`
      : html`<p class="faint">The states as they were recorded at the end of the period; the money by what was effective then.</p>`;
  return html`<h2>Escrow at the end</h2>
${holdings.length === 0 ? html`<p class="faint">Nothing was ever held in escrow.</p>` : html`${intro}${holdings.map((holding) => escrow(holding, view))}`}`;
}

interface StateLine {
  readonly what: Markup | string;
  readonly rows: bigint | null;
  readonly cents: bigint;
}

const escrow = (holding: Holding, view: View): Markup => {
  const { currency, heldCents, standing, accounts, decimalPlaces, states, elsewhereCents } = holding;
  const lines: StateLine[] = states.map(({ machine, state, rows, heldCents: cents }) => ({
    what: `${machine}: ${state ?? 'in no state by then'}`,
    rows,
    cents,
  }));
  if (elsewhereCents !== null && (elsewhereCents !== 0n || lines.length === 0)) {
    lines.push({ what: 'for no row of a state machine', rows: null, cents: elsewhereCents });
  }
  const columns: readonly Column<StateLine>[] = [
    { title: 'State', cell: ({ what }) => what },
    countColumn('Rows', ({ rows }) => rows, view),
    centsColumn('Held', ({ cents }) => cents, { decimalPlaces, view }),
  ];
  return html`<p><b>${formatMoney({ cents: heldCents, currency, decimalPlaces }, view)}</b> held, on ${formatCount(standing, view)} of ${formatCount(accounts, view)} accounts.</p>
${elsewhereCents === null ? '' : tableOf(`Escrow in ${currency}, by state`, columns, { rows: lines, total: { what: 'total', rows: null, cents: heldCents } })}`;
};

/** Beyond, the rest of them as one line: CSV has each. */
const MOST_CAUSES = 500;

export function suspensePart({ figures: { currencies } }: Report, view: View): Markup {
  const found = currencies.filter(({ suspense }) => suspense.length > 0);
  return html`<h2>Suspense by cause</h2>
<p class="faint">What the history could not explain, booked so that it is seen: each cause is an account to be cleared.</p>
${found.length === 0 ? html`<p>None: no suspense account was ever posted to.</p>` : found.map((each) => suspense(each, view))}`;
}

const suspense = ({ currency, decimalPlaces, suspense: causes, types }: CurrencyMovement, view: View): Markup => {
  const as = { decimalPlaces, view };
  const size = (cents: bigint) => (cents < 0n ? -cents : cents);
  const bySize = causes.toSorted((one, other) => Number(size(other.closingCents) - size(one.closingCents)));
  const shown: CauseLine[] = bySize.slice(0, MOST_CAUSES);
  const left = bySize.slice(MOST_CAUSES);
  if (left.length > 0) shown.push(restOf(left));
  const total = types.find(({ type }) => type === 'suspense');
  const columns: readonly Column<CauseLine>[] = [
    { title: 'Cause', cell: ({ cause }) => cause },
    centsColumn('Opening', ({ openingCents }) => openingCents, as),
    centsColumn('Debited', ({ debitedCents }) => debitedCents, as),
    centsColumn('Credited', ({ creditedCents }) => creditedCents, as),
    centsColumn('Closing', ({ closingCents }) => closingCents, as),
  ];
  return tableOf(`Suspense in ${currency}`, columns, {
    rows: shown,
    ...(total === undefined ? {} : { total: { cause: 'total', ...total } }),
  });
};

type CauseLine = Pick<CauseMovement, 'cause' | 'openingCents' | 'debitedCents' | 'creditedCents' | 'closingCents'>;

const restOf = (causes: readonly CauseMovement[]): CauseLine => {
  const sum = (of: 'openingCents' | 'debitedCents' | 'creditedCents' | 'closingCents') =>
    causes.reduce((total, each) => total + each[of], 0n);
  return {
    cause: `${causes.length} further causes`,
    openingCents: sum('openingCents'),
    debitedCents: sum('debitedCents'),
    creditedCents: sum('creditedCents'),
    closingCents: sum('closingCents'),
  };
};

/** Beyond, the days of a month are one line: CSV has each. */
const MOST_DAYS = 62;

/** What the charts of turnover are drawn from. */
export function turnoverPart({ figures: { currencies }, period }: Report, view: View): Markup {
  const moved = currencies.filter(({ turnover }) => turnover.length > 0);
  if (moved.length === 0) return html``;
  const isLong = period.step === 'day' && moved.some(({ turnover }) => turnover.length > MOST_DAYS);
  const step = isLong ? 'month' : period.step;
  return html`<h2>Turnover by ${step}</h2>
<p class="faint">The sum of the debits, which is that of the credits. ${STEP_TITLES[step]}s of ${period.zone} without entries are left out.</p>
${moved.map(({ currency, decimalPlaces, turnover }) => {
  const columns: readonly Column<Turnover>[] = [
    { title: STEP_TITLES[step], cell: ({ day }) => day },
    countColumn('Entries', ({ entries }) => entries, view),
    centsColumn('Turnover', ({ debitedCents }) => debitedCents, { decimalPlaces, view }),
  ];
  const rows = added(turnover, (day) => day.slice(0, STEP_LETTERS[step]));
  return tableOf(`Turnover in ${currency}`, columns, { rows, total: added(turnover, () => 'total')[0] as Turnover });
})}`;
}

/** Those that are named alike as one. */
function added(turnover: readonly Turnover[], nameOf: (day: string) => string): readonly Turnover[] {
  const named = new Map<string, Turnover>();
  for (const { day, entries, debitedCents } of turnover) {
    const name = nameOf(day);
    const former = named.get(name) ?? { entries: 0n, debitedCents: 0n };
    named.set(name, {
      day: name,
      entries: former.entries + entries,
      debitedCents: former.debitedCents + debitedCents,
    });
  }
  return [...named.values()];
}

const STEP_TITLES = { day: 'Day', month: 'Month', year: 'Year' } as const;
const STEP_LETTERS = { day: 'yyyy-mm-dd'.length, month: 'yyyy-mm'.length, year: 'yyyy'.length } as const;
