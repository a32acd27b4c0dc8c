import type { Logger } from 'pino';
import { createPool, type Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { type Auth, assertGuarded, type Place } from './access/gate.ts';
import type { Action, Page } from './page.ts';
import { auditPage } from './pages/audit.ts';
import { backfillPage } from './pages/backfill.ts';
import { bookPage, booksPage, sealsPage } from './pages/books.ts';
import { driftPage } from './pages/drift.ts';
import { escrowPage, rowPage, stateRowsPage } from './pages/escrow.ts';
import { ownerPage, ownersPage, rehearseAction } from './pages/owners.ts';
import { certificatePage, verificationPage, verificationsPage, verifyAction } from './pages/verifications.ts';
import { startRate } from './rate.ts';
import { createReader, installReader, keepGranted } from './reader.ts';
import { createServer } from './server.ts';
import { createRunner, type VerificationRunner } from './verifying.ts';

export interface ConsoleOptions {
  readonly databaseUrl: string;
  /** Where pages read, when it is not there: a replica shows what was true a moment ago, and is in nobody's way. */
  readonly replicaUrl?: string | undefined;
  readonly place: Place;
  readonly auth: Auth;
  readonly version: string;
  readonly poolMax: number;
  readonly log: Logger;
}

const PAGES: readonly Page[] = [
  booksPage,
  bookPage,
  sealsPage,
  verificationsPage,
  verificationPage,
  certificatePage,
  escrowPage,
  stateRowsPage,
  rowPage,
  driftPage,
  ownersPage,
  ownerPage,
  auditPage,
];

const actionsOf = (runner: VerificationRunner): readonly Action[] => [verifyAction(runner), rehearseAction];

export interface Console {
  /** Where it listens, with the port that it got. */
  readonly url: string;
  stop(): Promise<void>;
}

/**
 * Serves the console until it is stopped.
 * @throws AppError CONSOLE_EXPOSED, CONSOLE_READER_MISSING, HTTP_UNAVAILABLE, DB_*
 */
export async function startConsole(options: ConsoleOptions): Promise<Console> {
  const { databaseUrl, replicaUrl, place, auth, version, poolMax, log } = options;
  assertGuarded(place, auth);
  const owner = createPool({ databaseUrl, max: poolMax, applicationName: 'liventix-console' });
  const reader = createReader(replicaUrl ?? databaseUrl, poolMax);
  const runner = createRunner(owner, { databaseUrl, version, log });
  const endPools = async () => {
    await Promise.all([reader.end(), owner.end()]);
  };
  try {
    await installReader(owner);
    const database = await nameOf(reader);
    const server = await createServer(
      { owner, reader, auth, place, database, log },
      { pages: [...PAGES, backfillPage(startRate())], actions: actionsOf(runner) },
    );
    const granting = keepGranted(owner, (err) => log.warn({ err }, 'the console could not look for new books'));
    const url = await server.listen({ host: place.host, port: place.port }).catch((cause) => {
      throw unavailable(place, cause);
    });
    return {
      url: place.origin ?? url,
      stop: async () => {
        granting.stop();
        await server.close();
        await runner.stop();
        await endPools();
      },
    };
  } catch (error) {
    await endPools();
    throw error;
  }
}

/** As it is shown on every page: of which database, and whether of a replica. */
async function nameOf(reader: Pool): Promise<string> {
  const { rows } = await reader.query<{ name: string }>(
    `select current_database() || case when pg_is_in_recovery() then ' (replica)' else '' end as name`,
  );
  return rows[0]?.name ?? '';
}

function unavailable({ host, port }: Place, cause: unknown): AppError {
  const { code } = cause as { code?: string };
  const why = code === 'EADDRINUSE' ? 'another process listens there' : (code ?? 'it was refused');
  return new AppError(
    'HTTP_UNAVAILABLE',
    `${host}:${port} cannot be listened on: ${why}. Give another address with --http.`,
    { cause },
  );
}
