import type { Pool } from '../db/pool.ts';
import type { Action, Page } from './page.ts';
import { accountPage, changesPage, holdsPage } from './pages/account.ts';
import { accountsPage } from './pages/accounts.ts';
import { auditPage } from './pages/audit.ts';
import { backfillPage } from './pages/backfill.ts';
import { bookPage, booksPage, sealsPage, trialBalances } from './pages/books.ts';
import { deadLettersPage, retryAllAction, retryPlanPage } from './pages/dead-letters.ts';
import { deliveriesPage, deliveryPage } from './pages/deliveries.ts';
import { driftPage } from './pages/drift.ts';
import { endpointPage, endpointsPage } from './pages/endpoints.ts';
import { escrowPage, rowPage, stateRowsPage } from './pages/escrow.ts';
import { messagePage } from './pages/messages.ts';
import { outboxPage } from './pages/outbox.ts';
import { ownerPage, ownersPage, rehearseAction } from './pages/owners.ts';
import { queuePage } from './pages/queue.ts';
import { replayAction, replayPage } from './pages/replay.ts';
import { retryOneAction } from './pages/retrying.ts';
import { accountStatementPage } from './pages/statement.ts';
import { transactionPage, transactionPayloadPage, transactionProofPage } from './pages/transaction.ts';
import { transactionsPage } from './pages/transactions.ts';
import { certificatePage, verificationPage, verificationsPage, verifyAction } from './pages/verifications.ts';
import type { QueueBoard } from './queue-board.ts';
import { startRate } from './rate.ts';
import type { VerificationRunner } from './verifying.ts';

interface Sources {
  /** What pages read over. */
  readonly reader: Pool;
  /** The same on the primary, for what a replica does not know: who holds which lock. */
  readonly primary: Pool;
  readonly board: QueueBoard;
}

/** Every page there is. */
export function pagesOf({ reader, primary, board }: Sources): readonly Page[] {
  const balancesOf = trialBalances(reader);
  return [
    booksPage(balancesOf),
    bookPage(balancesOf),
    sealsPage,
    verificationsPage,
    verificationPage,
    certificatePage,
    accountsPage,
    accountPage,
    holdsPage,
    changesPage,
    accountStatementPage,
    transactionsPage,
    transactionPage,
    transactionProofPage,
    transactionPayloadPage,
    endpointsPage,
    endpointPage,
    deliveriesPage,
    deliveryPage,
    messagePage,
    deadLettersPage,
    retryPlanPage,
    replayPage,
    escrowPage,
    stateRowsPage,
    rowPage,
    backfillPage(primary, startRate()),
    driftPage,
    ownersPage,
    ownerPage,
    outboxPage(primary),
    queuePage(board),
    auditPage,
  ];
}

/** Everything that can be done. */
export const actionsOf = (runner: VerificationRunner): readonly Action[] => [
  verifyAction(runner),
  retryOneAction,
  retryAllAction,
  replayAction,
  rehearseAction,
];
