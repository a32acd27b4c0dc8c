import { decimalText } from '../html/view.ts';
import { type CsvCell, csvLine, freeText } from '../ledger/csv.ts';
import type { CurrencyMovement } from '../ledger/period-figures.ts';
import { foundIn } from './proof-part.ts';
import { escrowOf, holds, type Report } from './report.ts';

/** Of each line of a report as CSV. */
const CSV_COLUMNS = ['section', 'currency', 'type', 'item', 'measure', 'value', 'cents'] as const;

type Line = Partial<Record<(typeof CSV_COLUMNS)[number], CsvCell>>;

/**
 * The report as RFC 4180: one figure a line. `value` is an amount as a decimal number with a point, a count or a text; `cents` has amounts
 * once more, in minor units. What users named begins with an apostrophe where a spreadsheet would take it for a formula.
 */
export function csvOf(report: Report): string {
  const lines = [
    ...facts(report),
    ...report.figures.currencies.flatMap(byType),
    ...escrowLines(report),
    ...report.figures.currencies.flatMap(suspenseLines),
    ...report.figures.currencies.flatMap(turnoverLines),
    ...certificateLines(report),
    ...checkLines(report),
  ];
  return [
    csvLine(CSV_COLUMNS),
    ...lines.map((line) => csvLine(CSV_COLUMNS.map((column) => line[column] ?? null))),
  ].join('');
}

function facts(report: Report): Line[] {
  const { book, period, standing, figures, seal, made, verified } = report;
  const values: readonly (readonly [string, CsvCell])[] = [
    ['book', String(book.bookId)],
    ['book_name', freeText(book.name)],
    ['period', period.asked.text],
    ['from', period.from],
    ['until', period.until],
    ['zone', period.zone],
    ['status', standing === 'closed' ? 'final' : 'provisional'],
    ['standing', standing],
    ['holds', String(holds(report) ?? 'not known')],
    ['transactions', figures.transactions],
    ['entries', figures.entries],
    ['first_effective_at', figures.first],
    ['last_effective_at', figures.last],
    ['last_position', figures.lastPosition],
    ['seal_number', seal === null ? null : String(seal.sealNumber)],
    ['seal_root', seal?.root ?? null],
    ['seal_hash', seal?.sealHash ?? null],
    ['verification', verified.how],
    [
      'verification_sha256',
      verified.how === 'now'
        ? verified.sha256
        : verified.how === 'recorded'
          ? verified.recorded.certificateSha256
          : null,
    ],
    ['made_at', made.at],
    ['made_by', freeText(made.by)],
    ['database', freeText(made.database)],
    ['server', made.server],
    ['version', made.version],
  ];
  return values.map(([measure, value]) => ({ section: 'report', measure, value }));
}

type Amounts = Readonly<Record<string, bigint>>;

const amountLines = (head: Line, amounts: Amounts, decimalPlaces: number): Line[] =>
  Object.entries(amounts).map(([measure, cents]) => ({
    ...head,
    measure,
    value: decimalText(cents, decimalPlaces),
    cents,
  }));

const countLines = (head: Line, counts: Amounts): Line[] =>
  Object.entries(counts).map(([measure, value]) => ({ ...head, measure, value }));

const movementOf = ({
  openingCents,
  debitedCents,
  creditedCents,
  debitCents,
  creditCents,
  closingCents,
}: CurrencyMovement['total']) => ({
  opening: openingCents,
  debited: debitedCents,
  credited: creditedCents,
  closing_debit: debitCents,
  closing_credit: creditCents,
  closing: closingCents,
});

const byType = ({ currency, decimalPlaces, types, total }: CurrencyMovement): Line[] => [
  ...types.flatMap((line) => {
    const head = { section: 'type', currency, type: freeText(line.type) };
    const { accounts, debits, credits } = line;
    return [...amountLines(head, movementOf(line), decimalPlaces), ...countLines(head, { accounts, debits, credits })];
  }),
  ...amountLines({ section: 'total', currency }, movementOf(total), decimalPlaces),
  ...countLines({ section: 'total', currency }, { debits: total.debits, credits: total.credits }),
];

const escrowLines = (report: Report): Line[] =>
  escrowOf(report).flatMap(({ currency, decimalPlaces, heldCents, accounts, standing, states, elsewhereCents }) => {
    const head = { section: 'escrow', currency, type: 'escrow' };
    return [
      ...amountLines(head, { held: heldCents }, decimalPlaces),
      ...countLines(head, { accounts, standing }),
      ...states.flatMap(({ machine, state, rows, heldCents: cents }) => {
        const item = `${machine}: ${state ?? ''}`;
        return [
          ...amountLines({ ...head, item }, { held: cents }, decimalPlaces),
          ...countLines({ ...head, item }, { rows }),
        ];
      }),
      ...(elsewhereCents === null ? [] : amountLines(head, { held_elsewhere: elsewhereCents }, decimalPlaces)),
    ];
  });

const suspenseLines = ({ currency, decimalPlaces, suspense }: CurrencyMovement): Line[] =>
  suspense.flatMap(({ cause, ...line }) =>
    amountLines(
      { section: 'suspense', currency, type: 'suspense', item: freeText(cause) },
      movementOf(line),
      decimalPlaces,
    ),
  );

const turnoverLines = ({ currency, decimalPlaces, turnover }: CurrencyMovement): Line[] =>
  turnover.flatMap(({ day, debitedCents, entries }) => {
    const head = { section: 'turnover', currency, item: day };
    return [...amountLines(head, { debited: debitedCents }, decimalPlaces), ...countLines(head, { entries })];
  });

const certificateLines = ({ certificates }: Report): Line[] =>
  certificates.flatMap(({ until, from, hash, certifies, differences, closedAt }) =>
    Object.entries({
      ...{ from, certifies, closed_at: closedAt, sha256: hash },
      agrees: differences === null ? 'not compared' : String(differences.length === 0),
    }).map(([measure, value]) => ({ section: 'certificate', item: until, measure, value })),
  );

const checkLines = ({ verified }: Report): Line[] => {
  if (verified.how === 'not') return [];
  const certificate = verified.how === 'now' ? verified.certificate : verified.recorded.certificate;
  const { checks, skipped } = foundIn(certificate);
  return [
    ...checks.flatMap(({ check, holds: isSo, examined, faults }) =>
      Object.entries({ holds: String(isSo), examined: String(examined), faults: String(faults) }).map(
        ([measure, value]) => ({
          section: 'check',
          item: check,
          measure,
          value,
        }),
      ),
    ),
    ...skipped.map(({ check, reason }) => ({
      section: 'check',
      item: check,
      measure: 'skipped',
      value: freeText(reason),
    })),
  ];
};
