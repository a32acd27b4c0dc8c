export interface ExportedCurrency {
  readonly code: string;
  readonly name: string;
  readonly decimalPlaces: number;
}

export interface ExportedAccount {
  /** Its name in plain-text accounting, of `accountPath`. */
  readonly path: string;
  /** Null for what is no account of ours: the one that opening balances are set against. */
  readonly id: string | null;
  readonly type: string;
  readonly name: string;
  readonly currency: string;
  readonly userId: string | null;
  readonly organizationId: string | null;
}

export interface ExportedTransaction {
  /** In UTC, such as 2026-03-01. */
  readonly day: string;
  readonly transactionId: string;
  /** Null for opening balances, which sum up many events. */
  readonly eventPosition: bigint | null;
  /** Instants in UTC to the microsecond, such as 2026-03-01T12:00:00.000000Z. */
  readonly effectiveAt: string;
  readonly recordedAt: string | null;
  readonly createdBy: string | null;
  readonly referenceType: string | null;
  readonly referenceId: string | null;
  /** The transaction that this one takes back. */
  readonly reverses: string | null;
  readonly description: string | null;
  /** JSON. */
  readonly metadata: string;
}

export interface ExportedEntry {
  readonly account: ExportedAccount;
  readonly entryId: bigint | null;
  readonly amountCents: bigint;
  readonly decimalPlaces: number;
  /** Of the account in the order of the log, whatever the dates. */
  readonly balanceAfterCents: bigint | null;
  readonly description: string | null;
  /** JSON. */
  readonly metadata: string;
}

/** How a journal is written. Each part is whole lines, or nothing where the format has no such part. */
export interface JournalFormat {
  /** @param title one line that says what the file holds */
  head(title: string): string;
  currency(currency: ExportedCurrency): string;
  account(account: ExportedAccount, openedOn: string): string;
  /** What comes before a transaction's entries. */
  transaction(transaction: ExportedTransaction): string;
  entry(entry: ExportedEntry, transaction: ExportedTransaction): string;
}

/** Metadata of a transaction that has none. */
export const NO_METADATA = '{}';

/** The roots that every tool for plain-text accounting knows. */
type Root = 'Assets' | 'Liabilities' | 'Equity' | 'Income' | 'Expenses';

/** Where the account types of the migrations stand. Those added since stand where their normal side says. */
const ROOTS: ReadonlyMap<string, Root> = new Map([
  ['cash', 'Liabilities'],
  ['escrow', 'Liabilities'],
  ['receivable', 'Assets'],
  ['payable', 'Liabilities'],
  ['revenue', 'Income'],
  ['fees', 'Expenses'],
  ['taxes', 'Liabilities'],
  // Less revenue, not an expense: on the debit side of Income.
  ['contra_revenue', 'Income'],
  ['adjustments', 'Expenses'],
  // Neither earned nor spent until somebody finds out what it was.
  ['suspense', 'Assets'],
]);

interface NamedAccount {
  readonly type: string;
  readonly normalSide: 'debit' | 'credit';
  readonly currency: string;
  readonly name: string;
  readonly userId: string | null;
  readonly organizationId: string | null;
}

/**
 * An account's name in plain-text accounting: root, type, currency, name, and the owner where there is one, such as
 * `Liabilities:Cash:USD:Wallet:UserId-6f1c…`. Two accounts never get the same, whatever their names: what `component`
 * makes can be read back, type and currency stand in fixed places, and no name gives a component that begins as an owner
 * does, with a capital in its middle.
 */
export function accountPath(account: NamedAccount): string {
  const { type, normalSide, currency, name, userId, organizationId } = account;
  const root = ROOTS.get(type) ?? (normalSide === 'debit' ? 'Assets' : 'Liabilities');
  const owner =
    userId !== null ? [`UserId-${userId}`] : organizationId !== null ? [`OrganizationId-${organizationId}`] : [];
  return [root, component(type), currency, ...name.split(':').map(component), ...owner].join(':');
}

/** What opening balances are set against; no account of ours can be called so. */
export function openingPath(currency: string): string {
  return `Equity:Opening-Balances:${currency}`;
}

/**
 * Any text as one component of an account name: a capital or a digit, then letters, digits and dashes, all of ASCII. The
 * first letter becomes a capital and `_` a dash; any other character but a-z and 0-9 is its code point between two Q, in
 * hexadecimal (`-` is `Q2dQ`), a first `q` too, and the empty text is `QQ`. So it can be read back.
 */
function component(text: string): string {
  if (text === '') return 'QQ';
  const escaped = text.replace(/^[^a-pr-z0-9]|[^a-z0-9_]/gu, (character) => {
    return `Q${character.codePointAt(0)?.toString(16)}Q`;
  });
  return escaped.charAt(0).toUpperCase() + escaped.slice(1).replaceAll('_', '-');
}

/** `-12345n` with 2 decimal places → `-123.45`: exact, without separators. */
export function decimalText(amountCents: bigint, decimalPlaces: number): string {
  if (decimalPlaces === 0) return amountCents.toString();
  const digits = (amountCents < 0n ? -amountCents : amountCents).toString().padStart(decimalPlaces + 1, '0');
  return `${amountCents < 0n ? '-' : ''}${digits.slice(0, -decimalPlaces)}.${digits.slice(-decimalPlaces)}`;
}

/** A line of text that a person reads: whatever would end it, or move the cursor, is a space. */
export function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\p{Zl}\p{Zp}]+/gu, ' ').trim();
}
