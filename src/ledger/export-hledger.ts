import {
  decimalText,
  type ExportedAccount,
  type ExportedCurrency,
  type ExportedEntry,
  type ExportedTransaction,
  type JournalFormat,
  NO_METADATA,
  oneLine,
} from './export-format.ts';

/** hledger's account types by root. */
const TYPES: Readonly<Record<string, string>> = {
  Assets: 'A',
  Liabilities: 'L',
  Equity: 'E',
  Income: 'R',
  Expenses: 'X',
};

/**
 * https://hledger.org/hledger.html#journal. Nothing is lost: a description that a journal's line cannot hold is in a tag as
 * well, and what the value of a tag cannot hold is percent-encoded.
 */
export const HLEDGER: JournalFormat = {
  head: (title) => `; ${oneLine(title)}\n`,
  // Says what the decimal mark is. It is written also where nothing follows it: without one hledger refuses the directive.
  currency: ({ code, decimalPlaces }: ExportedCurrency) => `commodity 1000.${'0'.repeat(decimalPlaces)} ${code}\n`,
  // Not as tags, which a colon would make of it: an account passes those on to the accounts below it, others of ours.
  account: (account: ExportedAccount) =>
    `\naccount ${account.path}  ; type: ${TYPES[account.path.split(':', 1)[0] ?? '']}\n${Object.entries(facts(account))
      .map(([name, value]) => (value === null ? '' : `    ; ${name} ${tagValue(value).replaceAll(':', '%3A')}\n`))
      .join('')}`,
  transaction: (transaction: ExportedTransaction) => {
    const { description } = transaction;
    const line = oneLine(description ?? '').replaceAll(';', ',');
    // With status and code before it, nothing in a description is taken for either.
    return `\n${transaction.day} * (${transaction.eventPosition ?? transaction.transactionId}) ${line}\n${tags({
      transaction_id: transaction.transactionId,
      effective_at: transaction.effectiveAt,
      recorded_at: transaction.recordedAt,
      created_by: transaction.createdBy,
      reference_type: transaction.referenceType,
      reference_id: transaction.referenceId,
      reverses: transaction.reverses,
      description: line === description ? null : description,
      metadata: transaction.metadata === NO_METADATA ? null : transaction.metadata,
    })}`;
  },
  entry: (entry: ExportedEntry, transaction: ExportedTransaction) => {
    const { account, amountCents, decimalPlaces, description, metadata } = entry;
    return `    ${account.path}  ${decimalText(amountCents, decimalPlaces)} ${account.currency}\n${tags({
      entry_id: entry.entryId,
      account_id: account.id,
      entry_description: description === transaction.description ? null : description,
      entry_metadata: metadata === transaction.metadata ? null : metadata,
    })}`;
  },
};

function facts({ id, name, userId, organizationId }: ExportedAccount): Readonly<Record<string, string | null>> {
  return { account_id: id, account_name: name, user_id: userId, organization_id: organizationId };
}

function tags(values: Readonly<Record<string, string | bigint | null>>): string {
  return Object.entries(values)
    .map(([name, value]) => (value === null ? '' : `    ; ${name}: ${tagValue(value.toString())}\n`))
    .join('');
}

// A comma ends the value, brackets may be read as a date, and spaces around it are cut off.
function tagValue(text: string): string {
  return text.replace(/^ | $|[%,;[\]\p{Cc}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu, encodeURIComponent);
}
