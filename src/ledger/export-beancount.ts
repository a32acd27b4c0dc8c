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

/** A commodity exists from some day on; this one is before all of them. */
const BEFORE_ALL = '0001-01-01';

/** https://beancount.github.io/docs/beancount_language_syntax.html, version 2. Nothing is lost: its strings hold any text. */
export const BEANCOUNT: JournalFormat = {
  head: (title) => `option "title" ${quoted(oneLine(title))}\n`,
  currency: ({ code, name, decimalPlaces }: ExportedCurrency) =>
    `\n${BEFORE_ALL} commodity ${code}\n  name: ${quoted(name)}\n  precision: ${decimalPlaces}\n`,
  account: (account: ExportedAccount, openedOn: string) =>
    `\n${openedOn} open ${account.path} ${account.currency}\n${metadata('  ', {
      account_id: account.id,
      account_name: account.name,
      user_id: account.userId,
      organization_id: account.organizationId,
    })}`,
  transaction: (transaction: ExportedTransaction) =>
    `\n${transaction.day} * ${quoted(transaction.description ?? '')}\n${metadata('  ', {
      transaction_id: transaction.transactionId,
      event_position: transaction.eventPosition,
      effective_at: transaction.effectiveAt,
      recorded_at: transaction.recordedAt,
      created_by: transaction.createdBy,
      reference_type: transaction.referenceType,
      reference_id: transaction.referenceId,
      reverses: transaction.reverses,
      metadata: transaction.metadata === NO_METADATA ? null : transaction.metadata,
    })}`,
  entry: (entry: ExportedEntry, transaction: ExportedTransaction) => {
    const { account, amountCents, decimalPlaces } = entry;
    return `  ${account.path}  ${decimalText(amountCents, decimalPlaces)} ${account.currency}\n${metadata('    ', {
      entry_id: entry.entryId,
      description: entry.description === transaction.description ? null : entry.description,
      metadata: entry.metadata === transaction.metadata ? null : entry.metadata,
    })}`;
  },
};

/** A text as text, a number as a number, nothing where there is nothing to say. */
function metadata(indent: string, values: Readonly<Record<string, string | bigint | null>>): string {
  return Object.entries(values)
    .map(([key, value]) => {
      if (value === null) return '';
      return `${indent}${key}: ${typeof value === 'bigint' ? value : quoted(value)}\n`;
    })
    .join('');
}

const ESCAPES: Readonly<Record<string, string>> = { '"': '\\"', '\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t' };

function quoted(text: string): string {
  return `"${text.replace(/["\\\n\r\t]/g, (character) => ESCAPES[character] ?? character)}"`;
}
