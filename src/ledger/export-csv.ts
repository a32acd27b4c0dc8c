import { type CsvCell, csvLine, freeText } from './csv.ts';
import { decimalText, type ExportedEntry, type ExportedTransaction, type JournalFormat } from './export-format.ts';

/** In the order of the file, which never changes: a new one comes last. */
const COLUMNS: Readonly<Record<string, (entry: ExportedEntry, transaction: ExportedTransaction) => CsvCell>> = {
  transaction_id: (_, transaction) => transaction.transactionId,
  event_position: (_, transaction) => transaction.eventPosition,
  entry_id: (entry) => entry.entryId,
  account_id: ({ account }) => account.id,
  account_name: ({ account }) => freeText(account.name),
  account_type: ({ account }) => freeText(account.type),
  user_id: ({ account }) => account.userId,
  organization_id: ({ account }) => account.organizationId,
  currency: ({ account }) => account.currency,
  amount: ({ amountCents, decimalPlaces }) => decimalText(amountCents, decimalPlaces),
  amount_cents: ({ amountCents }) => amountCents,
  balance_after_cents: ({ balanceAfterCents }) => balanceAfterCents,
  effective_at: (_, transaction) => transaction.effectiveAt,
  recorded_at: (_, transaction) => transaction.recordedAt,
  created_by: (_, transaction) => freeText(transaction.createdBy),
  reference_type: (_, transaction) => freeText(transaction.referenceType),
  reference_id: (_, transaction) => freeText(transaction.referenceId),
  description: ({ description }) => freeText(description),
  metadata: ({ metadata }) => metadata,
  reverses: (_, transaction) => transaction.reverses,
};

/** RFC 4180, one line an entry. */
export const CSV: JournalFormat = {
  head: () => csvLine(Object.keys(COLUMNS)),
  currency: () => '',
  account: () => '',
  transaction: () => '',
  entry: (entry, transaction) => csvLine(Object.values(COLUMNS).map((column) => column(entry, transaction))),
};
